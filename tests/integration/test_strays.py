"""A topology whose sites have changed: what it left at the old place does not wait unseen."""

from pathlib import Path

import pytest
from integration.relays import command

from scalebox_actors.errors import BadInput
from scalebox_actors.local import Reach, known_topology, open_sites
from scalebox_actors.ports import Entry
from scalebox_actors.server import EmbeddedServer
from scalebox_actors.strays import refuse_strays
from scalebox_actors.topology.load import load
from scalebox_actors.topology.model import Topology

pytestmark = pytest.mark.integration

ONE = load(b"topology: t\nmodules: {m: {function: 'f:m'}}", path="one")
SEVERAL = load(
    b"topology: t\nsites: {local: {hub: true}, b: }\nmodules: {m: {function: 'f:m', site: local}}",
    path="several",
)
OTHER = load(b"topology: u\nmodules: {m: {function: 'f:m'}}", path="other")


async def leave(topology: Topology, store: Path, *subjects: str, site: str = "local") -> None:
    """Deploy a topology and store messages at a site of it; then everything is stopped."""
    async with open_sites(topology, Reach(store=store)) as sites:
        for place in sites.values():
            await place.deploy(topology)
        names = sites[site].names
        broker = await sites[site].broker()
        for subject in subjects:
            assert await broker.write([Entry(subject=f"{names.prefix}.{subject}")]) is None


HERE = ("task.m", "task.m", "result.m", "dead.m.a")
HERE_TOLD = "messages: 2, results: 1, dead letters: 1"


@pytest.mark.parametrize(
    ("before", "now", "where", "left", "told"),
    [
        pytest.param(ONE, SEVERAL, ("local", ""), HERE, HERE_TOLD, id="sites-were-added"),
        pytest.param(
            SEVERAL, ONE, ("local", "sites/local"), HERE, HERE_TOLD, id="sites-were-taken-away"
        ),
        pytest.param(
            SEVERAL, ONE, ("b", "sites/b"), ("out.local.m.x7",), "messages: 7", id="at-one-of-them"
        ),
    ],
)
async def test_what_is_left_is_not_forgotten(
    tmp_path: Path,
    before: Topology,
    now: Topology,
    where: tuple[str, str],
    left: tuple[str, ...],
    told: str,
) -> None:
    """The refusal says what is left, where it lies and where would be looked instead."""
    site, folder = where
    await leave(before, tmp_path, *left, site=site)

    with pytest.raises(BadInput) as refused:
        await refuse_strays(now, Reach(store=tmp_path))
    await refuse_strays(before, Reach(store=tmp_path))

    instead = tmp_path / "sites/b" if now is SEVERAL else tmp_path
    assert f"in {tmp_path / folder} and left there {told};" in str(refused.value)
    assert f"only {instead}" in str(refused.value)


async def test_nothing_that_is_left_refuses_nothing(tmp_path: Path) -> None:
    """What is done, and other topologies in the same store, are in nobody's way."""
    await leave(ONE, tmp_path, "done.m.a")
    await leave(OTHER, tmp_path, "task.m")

    await refuse_strays(SEVERAL, Reach(store=tmp_path))


async def test_what_somebody_works_on_is_not_left(tmp_path: Path) -> None:
    """A server that runs at the old place is another command's."""
    await leave(ONE, tmp_path, "task.m")

    with EmbeddedServer(tmp_path):
        await refuse_strays(SEVERAL, Reach(store=tmp_path))


async def test_the_name_alone_means_the_sites_of_the_last_time(tmp_path: Path) -> None:
    """With its sites taken away a topology is looked for in the store itself again."""
    await leave(SEVERAL, tmp_path, "done.m.a")
    await leave(OTHER, tmp_path, "task.m")
    assert known_topology(tmp_path) is not None

    await leave(ONE, tmp_path, "done.m.a")

    assert known_topology(tmp_path) is None


@pytest.mark.timeout(60)
def test_commands_say_so(tmp_path: Path) -> None:
    """A message waits, `sites:` is added: `run` and `status` refuse instead of showing nothing."""
    (tmp_path / "f.py").write_text("async def m(message):\n    return None\n")
    one, several = tmp_path / "one.yaml", tmp_path / "several.yaml"
    one.write_text("topology: t\nmodules: {m: {function: 'f:m'}}\n")
    several.write_text(
        "topology: t\nsites: {local: {hub: true}, b: }\n"
        "modules: {m: {function: 'f:m', site: local}}\n"
    )
    store = ("--store", str(tmp_path / "s"))
    assert command("send", str(one), "m", "x", *store).returncode == 0

    refused = [command(verb, str(several), *store) for verb in ("run", "status")]
    worked_off = command("run", str(one), *store)
    ran = command("run", str(several), *store)

    assert [(done.returncode, "messages: 1;" in done.stderr) for done in refused] == [
        (65, True)
    ] * 2
    assert (worked_off.returncode, ran.returncode) == (0, 0)
