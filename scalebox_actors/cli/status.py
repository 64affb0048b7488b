"""`sbx-actor status`: how much waits, runs and failed, and who works on it."""

import asyncio
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

import click
import msgspec

from scalebox_actors.broker import topologies as deployed_topologies
from scalebox_actors.cli import output
from scalebox_actors.cli.everywhere import ask
from scalebox_actors.cli.options import Common, reaching, stores_root
from scalebox_actors.cli.room import use_text
from scalebox_actors.cli.session import Session, opened, reach_of, wanted
from scalebox_actors.cli.show import duration, moment, size, table
from scalebox_actors.errors import SbxError
from scalebox_actors.local import known_topology, open_site
from scalebox_actors.names import Names, is_name
from scalebox_actors.node import NodeStatus
from scalebox_actors.questions import Look, ModuleState, Op, Question
from scalebox_actors.server import running
from scalebox_actors.topology.model import LOCAL, Launch, Topology

PAUSED_FOR_GOOD = 365 * 86_400.0
_KEPT: Mapping[str, str] = {Launch.FRESH: "warm", Launch.RESIDENT: "programs"}
"""What the containers of a module are that outlive a message or wait for one."""


class LinkState(msgspec.Struct, frozen=True, kw_only=True):
    """What waits at one site to be carried to another."""

    origin: str
    target: str
    waiting: int
    down_since: float = 0.0
    """Since when nothing arrives there, as the couriers see it; 0 while all is well."""
    why: str = ""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """How a topology stands."""

    topology: str
    modules: tuple[ModuleState, ...]
    nodes: tuple[NodeStatus, ...]
    now: float
    bytes: int
    max_bytes: int
    links: tuple[LinkState, ...] = ()
    unreachable: tuple[str, ...] = ()
    """The sites of which nothing is told here."""


@click.command()
@click.argument("topology", required=False)
@reaching
def status(common: Common, topology: str | None) -> None:
    """Show how TOPOLOGY, a YAML file or the name of a deployed one, stands.

    Without TOPOLOGY: which ones there are.

    \b
    sbx-actor status primes
    watch -n 2 sbx-actor status primes
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    if topology is None:
        asyncio.run(_list(common))
        return
    want = wanted(topology)

    async def work() -> None:
        async with opened(common, want) as session:
            state = await look(session)
        if common.json:
            output.record(state)
        else:
            output.lines("\n".join(text_of(state)))

    asyncio.run(work())


async def look(session: Session) -> State:
    """Gather what servers and nodes say of a topology, at every site that can be reached."""
    looks: dict[str, Look] = {}
    async for site, page in ask(session, Question(op=Op.SITE)):
        if page.look is not None:
            looks[site] = page.look
    sites = session.topology.site_names
    ordered = {site: looks[site] for site in sites if site in looks}
    return State(
        topology=session.names.topology,
        modules=tuple(
            _with_launch(module, session.topology)
            for one in ordered.values()
            for module in one.modules
        ),
        nodes=tuple(chain.from_iterable(one.nodes for one in ordered.values())),
        now=await session.broker.clock(),
        bytes=sum(one.bytes for one in looks.values()),
        max_bytes=sum(one.max_bytes for one in looks.values()),
        links=tuple(chain.from_iterable(links_of(site, one) for site, one in ordered.items())),
        unreachable=tuple(site for site in sites if site not in looks),
    )


def links_of(site: str, look: Look) -> Iterator[LinkState]:
    """Say how the ways from a site to the others are: those with something to tell."""
    roads = [road for node in look.nodes for road in node.roads.values() if road.down_since]
    for target in sorted({*look.outgoing, *(road.site for road in roads)}):
        down = [road for road in roads if road.site == target]
        first = min(down, key=lambda road: road.down_since, default=None)
        yield LinkState(
            origin=site,
            target=target,
            waiting=look.outgoing.get(target, 0),
            down_since=first.down_since if first else 0.0,
            why=first.why if first else "",
        )


def text_of(state: State) -> list[str]:
    """Return the state for people."""
    several = len({m.site for m in state.modules}) > 1 or bool(state.unreachable)
    header = ("module", "waiting", "running", "done", "retried", "dead", "results", "")
    rows = [
        (
            f"{m.module}@{m.site}" if several else m.module,
            m.waiting,
            m.running,
            m.done if state.nodes else "-",  # nodes count, each since its start
            m.retried if state.nodes else "-",
            m.dead,
            m.results,
            _remark(m, state.now),
        )
        for m in state.modules
    ]
    nodes = [
        (
            n.node,
            n.runtime,
            moment(n.since),
            use_text(n.in_use),
            "draining" if n.draining else "working",
        )
        for n in state.nodes
    ]
    told = (
        table(("node", "runtime", "since", "in use", ""), nodes) if nodes else ["no node answers"]
    )
    links = [
        (
            f"{one.origin} → {one.target}",
            one.waiting,
            f"down since {moment(one.down_since)}: {one.why}" if one.down_since else "",
        )
        for one in state.links
    ]
    carried = [*table(("link", "waiting", ""), links), ""] if links else []
    missing = [f"site {site} does not answer" for site in state.unreachable]
    fill = f"{size(state.bytes)} of {size(state.max_bytes)} used by the stream"
    return [*table(header, rows), "", *carried, *told, "", *missing, fill]


def _remark(module: ModuleState, now: float) -> str:
    paused = module.paused_until > now
    left = module.paused_until - now
    for_good = left > PAUSED_FOR_GOOD
    remarks = ["paused until `resume`" if for_good else f"paused for {duration(left)}"]
    remarks = remarks if paused else []
    kept = ", ".join(f"{count} {state}" for state, count in sorted(module.containers.items()))
    remarks += [f"{_KEPT.get(module.launch, 'slots')}: {kept}"] if kept else []
    remarks += [f"suspended: {module.suspended}"] if module.suspended else []
    return "; ".join(remarks)


def _with_launch(state: ModuleState, topology: Topology) -> ModuleState:
    """Say how a module is launched; a site does not."""
    module = topology.modules.get(state.module)
    return msgspec.structs.replace(state, launch=module.launch.value) if module else state


def _running(store: Path) -> str:
    """Return where the servers of a store are, or that there are none."""
    folders = sorted((store / "sites").glob("*/")) or [store]
    urls = [running(folder) for folder in folders]
    return ", ".join(url for url in urls if url) or "no server runs"


async def _list(common: Common) -> None:
    """Print which topologies there are: on the server, or in the stores of this user."""
    known = known_topology(Path(common.store)) if common.store else None
    if known is not None and not common.nats:
        rows = [(known.name, _running(Path(common.store or "")))]
    elif common.nats or common.store:
        async with open_site(Names(LOCAL), reach_of(common, "", start=False)) as site:
            found = await deployed_topologies(site.link, site.link.domain or LOCAL)
            rows = [(name, "deployed") for name in found]
    else:
        root = stores_root()
        names = sorted(p.name for p in root.iterdir() if is_name(p.name)) if root.is_dir() else []
        rows = [(name, _running(root / name)) for name in names]
    if not rows and not common.json:
        raise SbxError("no topology is deployed here; `sbx-actor run` starts one")
    if common.json:
        for name, state in rows:
            output.record({"topology": name, "state": state})
    else:
        output.lines("\n".join(table(("topology", "server"), rows)))
