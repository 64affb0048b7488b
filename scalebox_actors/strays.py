"""What of a topology is left in its store where nobody would look any more.

A topology with one site lies in its store itself, each of several sites in a folder below it.
Whoever adds `sites:`, takes it away or renames a site goes to another place, and what waited at the
old one would wait there without a word.
"""

from collections.abc import Iterator
from pathlib import Path

from scalebox_actors.errors import BadInput
from scalebox_actors.local import Reach, open_site, place_of
from scalebox_actors.names import Names, bound_for, is_name
from scalebox_actors.server import STREAMS, running
from scalebox_actors.topology.model import Topology

_STREAMS = f"{STREAMS}/jetstream/$G/streams"
"""Where a server of ours without keys has its streams; with keys it is reached by `--nats`."""


async def refuse_strays(topology: Topology, reach: Reach) -> None:
    """Raise BadInput if messages, results or letters are left where the sites are not now.

    A place whose server runs is passed over: somebody has it open and works on it.
    """
    if reach.nats or reach.ephemeral:
        return
    now = {(place_of(topology, reach.store, site), site) for site in topology.site_names}
    for folder, site in _places(topology.name, reach.store):
        if (folder, site) in now or running(folder):
            continue
        left = await _left(Names(topology.name, site), folder)
        if left:
            told = ", ".join(f"{what}: {count}" for what, count in left.items())
            looked_at = ", ".join(str(place) for place, _ in sorted(now))
            raise BadInput(
                f"topology {topology.name} had its site {site} in {folder} and left there {told}; "
                f"with the sites that it has now, only {looked_at} would be looked at. Run it as it"
                f" was until nothing is left, or move {folder / STREAMS} to another folder"
            )


def _places(topology: str, store: Path) -> Iterator[tuple[Path, str]]:
    """Yield the folders that hold a stream of the topology, each with the site it is of."""
    begin = Names(topology, "").stream
    for folder in (store, *sorted((store / "sites").glob("*/"))):
        for stream in sorted((folder / _STREAMS).glob(f"{begin}*")):
            site = stream.name.removeprefix(begin)
            if is_name(site):  # the stream of traces is not meant
                yield folder, site


async def _left(names: Names, folder: Path) -> dict[str, int]:
    """Return how much is left at a site besides records of what is done."""
    async with open_site(names, Reach(store=folder, start=False)) as site:
        if not await site.admin.exists():
            return {}
        subjects = await site.admin.list_subjects(f"{names.prefix}.>")
    left = {"messages": 0, "results": 0, "dead letters": 0}
    for subject, count in subjects.items():
        kind, *rest = subject.removeprefix(f"{names.prefix}.").split(".")
        match kind:
            case "task":
                left["messages"] += count
            case "out":
                left["messages"] += count * bound_for(subject).count
            case "join" if len(rest) > 2:  # noqa: PLR2004 - a member: module, group and id
                left["messages"] += count
            case "result":
                left["results"] += count
            case "dead":
                left["dead letters"] += count
            case _:
                continue
    return {what: count for what, count in left.items() if count}
