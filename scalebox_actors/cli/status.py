"""`sbx-actor status`: how much waits, runs and failed, and who works on it."""

import asyncio
from collections.abc import Mapping, Sequence

import click
import msgspec

from scalebox_actors.broker import topologies as deployed_topologies
from scalebox_actors.cli import output
from scalebox_actors.cli.options import Common, reaching, stores_root
from scalebox_actors.cli.session import Session, opened, reached, wanted
from scalebox_actors.cli.show import duration, moment, size, table
from scalebox_actors.errors import SbxError
from scalebox_actors.names import Names, is_name
from scalebox_actors.node import NodeStatus
from scalebox_actors.ports import Backlog
from scalebox_actors.server import running

ASK_SECONDS = 0.5
PAUSED_FOR_GOOD = 365 * 86_400.0


class ModuleState(msgspec.Struct, frozen=True, kw_only=True):
    """How one module stands, over all nodes."""

    module: str
    waiting: int
    running: int
    results: int
    dead: int
    done: int
    """Since the nodes that answered were started."""
    retried: int
    paused_until: float = 0.0
    suspended: str = ""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """How a topology stands."""

    topology: str
    modules: tuple[ModuleState, ...]
    nodes: tuple[NodeStatus, ...]
    now: float
    bytes: int
    max_bytes: int


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
    """Gather what the server and the nodes say of a topology."""
    names, admin = session.names, session.site.admin
    answers = await session.broker.ask("status", b"", wait=ASK_SECONDS)
    nodes = tuple(_decoded(answers))
    backlogs = {name: await admin.backlog(name) for name in session.topology.modules}
    dead = await admin.list_subjects(names.dead("*", "*"))
    results = await admin.list_subjects(names.result("*"))
    sizes = {one.name: one for one in await admin.sizes()}
    stream = sizes.get(names.stream)
    return State(
        topology=names.topology,
        modules=states(backlogs, nodes, by_module(dead), by_module(results)),
        nodes=nodes,
        now=await session.broker.clock(),
        bytes=stream.bytes if stream else 0,
        max_bytes=stream.max_bytes if stream else 0,
    )


def states(
    backlogs: Mapping[str, Backlog],
    nodes: Sequence[NodeStatus],
    dead: Mapping[str, int],
    results: Mapping[str, int],
) -> tuple[ModuleState, ...]:
    """Put together what the server and the nodes say of each module."""
    found = []
    for name, backlog in backlogs.items():
        here = [node.modules[name] for node in nodes if name in node.modules]
        found.append(
            ModuleState(
                module=name,
                waiting=backlog.waiting,
                running=backlog.in_hand,
                results=results.get(name, 0),
                dead=dead.get(name, 0),
                done=sum(status.counts.done for status in here),
                retried=sum(status.counts.retried for status in here),
                paused_until=backlog.paused_until,
                suspended="; ".join(sorted({s.suspended for s in here if s.suspended})),
            )
        )
    return tuple(found)


def by_module(subjects: Mapping[str, int]) -> dict[str, int]:
    """Add up counts per subject by the module in it."""
    counts: dict[str, int] = {}
    for subject, count in subjects.items():
        module = subject.split(".")[4]
        counts[module] = counts.get(module, 0) + count
    return counts


def text_of(state: State) -> list[str]:
    """Return the state for people."""
    header = ("module", "waiting", "running", "done", "retried", "dead", "results", "")
    rows = [
        (
            m.module,
            m.waiting,
            m.running,
            m.done,
            m.retried,
            m.dead,
            m.results,
            _remark(m, state.now),
        )
        for m in state.modules
    ]
    nodes = [
        (n.node, n.runtime, moment(n.since), "draining" if n.draining else "working")
        for n in state.nodes
    ]
    told = table(("node", "runtime", "since", ""), nodes) if nodes else ["no node answers"]
    fill = f"{size(state.bytes)} of {size(state.max_bytes)} used by the stream"
    return [*table(header, rows), "", *told, "", fill]


def _remark(module: ModuleState, now: float) -> str:
    paused = module.paused_until > now
    left = module.paused_until - now
    for_good = left > PAUSED_FOR_GOOD
    remarks = ["paused until `resume`" if for_good else f"paused for {duration(left)}"]
    remarks = remarks if paused else []
    remarks += [f"suspended: {module.suspended}"] if module.suspended else []
    return "; ".join(remarks)


def _decoded(answers: Sequence[bytes]) -> list[NodeStatus]:
    """Return the answers that can be read; nodes of another version may say more or less."""
    found = []
    for answer in answers:
        try:
            found.append(msgspec.json.decode(answer, type=NodeStatus))
        except msgspec.MsgspecError:
            output.say("a node answered in words that this version does not know")
    return sorted(found, key=lambda status: status.node)


async def _list(common: Common) -> None:
    """Print which topologies there are: on the server, or in the stores of this user."""
    if common.nats or common.store:
        async with reached(common, Names("status"), start=False) as site:
            rows = [(name, "deployed") for name in await deployed_topologies(site.link, "local")]
    else:
        root = stores_root()
        names = sorted(p.name for p in root.iterdir() if is_name(p.name)) if root.is_dir() else []
        rows = [(name, running(root / name) or "no server runs") for name in names]
    if not rows and not common.json:
        raise SbxError("no topology is deployed here; `sbx-actor run` starts one")
    if common.json:
        for name, state in rows:
            output.record({"topology": name, "state": state})
    else:
        output.lines("\n".join(table(("topology", "server"), rows)))
