"""One site for people: a server if there is none, a node, and a watch that says when all is done.

`sbx-actor run` is this; the other commands use `open_site` to reach a topology's stream.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from aiofiles import os as aios

from scalebox_actors import server as embedded
from scalebox_actors.broker import Admin, Credentials, JetStreamBroker, Link, connect, ensure
from scalebox_actors.errors import Unavailable
from scalebox_actors.names import Names
from scalebox_actors.node import Node
from scalebox_actors.ports import Backlog
from scalebox_actors.topology.model import Topology
from scalebox_actors.topology.render import render

POLL = 0.25
STUCK_AFTER = 10.0
"""So long nothing may move while a module is suspended, before `run` gives up."""

log = logging.getLogger(__name__)


class Site:
    """A connection to one topology's stream at one site, and the server if it is ours."""

    def __init__(self, link: Link, names: Names, server: embedded.EmbeddedServer | None) -> None:
        self.link = link
        self.names = names
        self.server = server
        self.admin = Admin(link, names)

    async def deploy(self, topology: Topology) -> list[str]:
        """Make streams and consumers as the topology needs them; return what was changed."""
        changes = await ensure(self.link, topology, self.names)
        await self.admin.write_topology(render(topology))
        return changes

    async def deployed(self) -> bytes | None:
        """Return the topology that was deployed last, as `render` wrote it."""
        return await self.admin.read_topology()

    async def broker(self) -> JetStreamBroker:
        """Return the stream as a node uses it."""
        return await JetStreamBroker.open(self.link, self.names)


@asynccontextmanager
async def open_site(
    names: Names,
    *,
    nats: str | None = None,
    store: Path,
    ephemeral: bool = False,
    start: bool = True,
    credentials: Credentials | None = None,
) -> AsyncIterator[Site]:
    """Reach the stream of a topology, starting an embedded server if there is none.

    The order: the server at `nats` if given; the embedded server that already runs on `store`;
    one started for as long as the context lasts, if the store exists or `start` allows a new one.
    Raises Unavailable if nothing answers.
    """
    url = nats or (None if ephemeral else embedded.running(store))
    server: embedded.EmbeddedServer | None = None
    if url is None:
        if not (start or await aios.path.exists(store)):
            raise Unavailable(
                f"no server: nothing has run in {store} yet; give --nats URL or start `run` first"
            )
        settings = embedded.Settings(site=names.site)
        server = embedded.EmbeddedServer(None if ephemeral else store, settings)
        url = server.start()
    keeper = asyncio.create_task(_keep_up(server)) if server else None
    try:
        link = await connect(
            url, name=f"sbx-actor {names.topology}", events=_report, credentials=credentials
        )
        try:
            yield Site(link, names, server)
        finally:
            await link.close()
    finally:
        if keeper is not None:
            keeper.cancel()
        if server is not None:
            await asyncio.to_thread(server.stop)


async def _keep_up(server: embedded.EmbeddedServer) -> None:
    """Start our server again whenever it dies; it comes back on its port with all it has stored."""
    while True:
        code = await server.wait()
        log.error("server_died", extra={"exit_code": code, "store": str(server.store)})
        try:
            server.start()  # some milliseconds, on the main thread as it must be
        except Unavailable as error:
            log.error("server_not_started", extra={"why": str(error)})  # noqa: TRY400 - no bug
            await asyncio.sleep(1)


def _report(event: str, detail: str) -> None:
    """Log what the broker's adapter has to tell, with its name."""
    log.warning(event, extra={"why": detail})


class ModuleView(msgspec.Struct, frozen=True, kw_only=True):
    """How a module stands, for people who watch."""

    module: str
    waiting: int
    in_hand: int
    done: int
    retried: int
    dead: int
    suspended: str = ""


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended."""

    seconds: float
    modules: tuple[ModuleView, ...]
    open_groups: int = 0
    stuck: str = ""
    """Why nothing could go on; empty when everything was worked off."""

    @property
    def dead(self) -> int:
        """How many tasks were buried."""
        return sum(view.dead for view in self.modules)


def view(node: Node, backlogs: dict[str, Backlog]) -> tuple[ModuleView, ...]:
    """Return how every module of a node stands."""
    views = []
    for name, actor in node.actors.items():
        counts, backlog = node.journal.of(name), backlogs[name]
        views.append(
            ModuleView(
                module=name,
                waiting=backlog.waiting,
                in_hand=backlog.in_hand,
                done=counts.done,
                retried=counts.retried,
                dead=counts.dead,
                suspended=actor.suspended,
            )
        )
    return tuple(views)


async def until_drained(
    node: Node, broker: JetStreamBroker, watch: Callable[[tuple[ModuleView, ...]], None]
) -> Ending:
    """Wait until nothing waits and nothing runs, telling `watch` how it goes.

    Ends early, with a reason, when a module is suspended and nothing else has moved for a while.
    """
    began = moved = time.monotonic()
    last: tuple[ModuleView, ...] = ()
    calm = 0
    while True:
        names = list(node.actors)
        backlogs = await asyncio.gather(*(broker.backlog(name) for name in names))
        views = view(node, dict(zip(names, backlogs, strict=True)))
        watch(views)
        now = time.monotonic()
        if views != last:
            last, moved = views, now
        idle = all(v.waiting == 0 and v.in_hand == 0 for v in views)
        # Between the commit of a task and the counting of its outputs nothing may seem to wait;
        # two looks in a row that agree are the end, since commits count before acks do.
        calm = calm + 1 if idle else 0
        stuck = "" if now - moved < STUCK_AFTER else _stuck(views)
        if calm > 1 or stuck:
            groups = await node.open_groups()
            if groups and not stuck and _will_time_out(node):
                calm = 0
            else:
                return Ending(seconds=now - began, modules=views, open_groups=groups, stuck=stuck)
        await asyncio.sleep(POLL)


def _stuck(views: tuple[ModuleView, ...]) -> str:
    reasons = [f"{v.module}: {v.suspended}" for v in views if v.suspended]
    return "; ".join(reasons)


def _will_time_out(node: Node) -> bool:
    """Whether open groups end by themselves: then it is worth waiting for them."""
    modules = node.topology.modules.values()
    return all(m.gather.timeout is not None for m in modules if m.gather is not None)
