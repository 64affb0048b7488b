"""Sites for people: servers if there are none, nodes, and a watch that says when all is done.

`sbx-actor run` is this; the other commands use `open_site` to reach a topology's stream.
"""

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import chain
from pathlib import Path

import msgspec
from aiofiles import os as aios

from scalebox_actors import server as embedded
from scalebox_actors.broker import (
    Admin,
    Credentials,
    JetStreamBroker,
    Link,
    check_place,
    claim,
    connect,
    ensure,
)
from scalebox_actors.errors import BadInput, Unavailable
from scalebox_actors.hosting import hosted
from scalebox_actors.names import Names, bound_for
from scalebox_actors.node import Node
from scalebox_actors.sites import Ground, server_configuration
from scalebox_actors.topology.load import load_file
from scalebox_actors.topology.model import Topology
from scalebox_actors.topology.render import render

POLL = 0.25
STUCK_AFTER = 10.0
"""So long nothing may move while a module is suspended, before `run` gives up."""

_TOPOLOGY = "topology.yaml"

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
        await check_place(self.link, topology, self.names)
        changes = await ensure(self.link, topology, self.names)
        text = render(topology)
        if await self.deployed() != text:  # who may not deploy may still start what is deployed
            await self.admin.write_topology(text)
        await claim(self.link, topology, self.names)
        return changes

    async def join(self, topology: Topology) -> None:
        """Check the site as `deploy` does, for a topology that is deployed already."""
        await check_place(self.link, topology, self.names)
        await claim(self.link, topology, self.names)

    async def deployed(self) -> bytes | None:
        """Return the topology that was deployed last, as `render` wrote it."""
        return await self.admin.read_topology()

    async def outgoing(self) -> dict[str, int]:
        """Return how much waits here to be carried, by the site it is for."""
        counts: dict[str, int] = {}
        for subject, count in (await self.admin.list_subjects(self.names.out("*", ">"))).items():
            bound = bound_for(subject)
            counts[bound.site] = counts.get(bound.site, 0) + count * bound.count
        return counts

    async def broker(self) -> JetStreamBroker:
        """Return the stream as a node uses it."""
        return await JetStreamBroker.open(self.link, self.names)


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """Where servers are looked for, and whether they may be started."""

    store: Path
    """The folder of the embedded server; of several sites, what theirs are in."""
    nats: str | None = None
    ephemeral: bool = False
    start: bool = True
    credentials: Credentials | None = None


@asynccontextmanager
async def open_site(
    names: Names, reach: Reach, configure: embedded.Configure | None = None
) -> AsyncIterator[Site]:
    """Reach the stream of a topology, starting an embedded server if there is none.

    The order: the server at `nats` if given; the embedded server that already runs on `store`;
    one started for as long as the context lasts, if the store has streams or `start` allows it to.
    Whose server is another command's takes it over when that one ends (hosting.py).
    Raises Unavailable if nothing answers.
    """
    store, ephemeral, url = reach.store, reach.ephemeral, reach.nats
    server: embedded.EmbeddedServer | None = None
    async with AsyncExitStack() as stack:
        if url is None:
            if not (reach.start or await aios.path.exists(store / embedded.STREAMS)):
                raise Unavailable(
                    f"no server: nothing has run in {store} yet; "
                    "give --nats URL or start `run` first"
                )
            settings = embedded.Settings(site=names.site)
            server = embedded.EmbeddedServer(None if ephemeral else store, settings, configure)
            url = await stack.enter_async_context(hosted(server))
        link = await connect(
            url,
            name=f"sbx-actor {names.topology}",
            events=_report,
            credentials=reach.credentials,
        )
        stack.push_async_callback(link.close)
        yield Site(link, names, server if server and server.alive else None)


@asynccontextmanager
async def open_sites(topology: Topology, reach: Reach) -> AsyncIterator[dict[str, Site]]:
    """Reach all sites of a topology on this machine, the hub first, joined by leaf links.

    A topology with one site lies in the store itself, each of several in a folder of its own.
    """
    first, *others = (Names(topology.name, site) for site in topology.site_names)
    async with AsyncExitStack() as stack:
        if not others:
            if reach.start and not (reach.ephemeral or reach.nats):
                _forget_sites(topology.name, reach.store)
            yield {first.site: await stack.enter_async_context(open_site(first, reach))}
            return
        if reach.start and not reach.ephemeral:
            (reach.store / "sites").mkdir(parents=True, exist_ok=True)
            # So that the name alone is enough the next time: servers are configured by it.
            embedded.write_whole(reach.store / "sites" / _TOPOLOGY, render(topology))
        hub = site_folder(reach.store, first.site)
        leaves = _free_address() if reach.ephemeral else _leaf_address(hub)
        sites = {}
        for names in (first, *others):
            own = msgspec.structs.replace(reach, store=site_folder(reach.store, names.site))
            configure = _joined(topology, names.site, leaves)
            opened = await stack.enter_async_context(open_site(names, own, configure))
            sites[names.site] = opened
            if names is first and opened.server is not None and not reach.ephemeral:
                (hub / "leaves").write_text(leaves)
        yield sites


def known_topology(store: Path) -> Topology | None:
    """Return the topology of several sites that lies in a store, or None."""
    path = store / "sites" / _TOPOLOGY
    return load_file(str(path)) if path.exists() else None


def _forget_sites(topology: str, store: Path) -> None:
    """Let the name alone mean the one site the next time; what another topology had stays."""
    try:
        known = known_topology(store)
    except BadInput:
        return
    if known is not None and known.name == topology:
        (store / "sites" / _TOPOLOGY).unlink(missing_ok=True)


def place_of(topology: Topology, store: Path, site: str) -> Path:
    """Return the folder of a topology's site in its store."""
    return site_folder(store, site) if len(topology.site_names) > 1 else store


def site_folder(store: Path, site: str) -> Path:
    """Return the folder of one of several sites in a topology's store."""
    return store / "sites" / site


def _joined(topology: Topology, site: str, leaves: str) -> embedded.Configure:
    """Return how the server of a site is configured whose hub waits for leaves there."""

    def configure(ground: Ground) -> str:
        joined = msgspec.structs.replace(ground, leaf_listen=leaves, hub=leaves)
        return server_configuration(topology, site, None, joined)

    return configure


def _leaf_address(hub: Path) -> str:
    """Return where the hub waits for leaves: where it did before, if that can be."""
    try:
        before = (hub / "leaves").read_text()
    except FileNotFoundError:
        return _free_address()
    return before if embedded.running(hub) or _is_free(before) else _free_address()


def _free_address() -> str:
    with socket.create_server((embedded.HOST, 0)) as probe:
        return f"{embedded.HOST}:{probe.getsockname()[1]}"


def _is_free(address: str) -> bool:
    try:
        socket.create_server((embedded.HOST, int(address.rpartition(":")[2]))).close()
    except (OSError, ValueError):
        return False
    return True


def _report(event: str, detail: str) -> None:
    """Log what the broker's adapter has to tell, with its name."""
    log.warning(event, extra={"why": detail})


class ModuleView(msgspec.Struct, frozen=True, kw_only=True):
    """How a module stands, for people who watch."""

    module: str
    """With several sites `module@site`, or `site → site` for what waits to be carried."""
    waiting: int
    in_hand: int = 0
    done: int = 0
    retried: int = 0
    dead: int = 0
    suspended: str = ""
    link: bool = False


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


class Post(msgspec.Struct, frozen=True, kw_only=True):
    """A site, and the node that works there."""

    site: Site
    node: Node
    broker: JetStreamBroker


class _Look(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of all posts at one time."""

    stored: tuple[int, ...]
    """Of each site the last sequence, read before anything else."""
    views: tuple[ModuleView, ...]

    @property
    def idle(self) -> bool:
        return all(view.waiting == 0 and view.in_hand == 0 for view in self.views)


async def until_drained(
    posts: Sequence[Post], watch: Callable[[tuple[ModuleView, ...]], None]
) -> Ending:
    """Wait until nothing waits and nothing runs at any site, telling `watch` how it goes.

    Ends early, with a reason, when a module is suspended and nothing else has moved for a while.
    """
    began = moved = time.monotonic()
    last: _Look | None = None
    held: dict[str, tuple[str, float]] = {}
    while True:
        look = await _look(posts)
        watch(look.views)
        now = time.monotonic()
        # A module that is tried and suspended again and again moves nothing by that.
        held |= {view.module: (view.suspended, now) for view in look.views if view.suspended}
        stopped = {module: why for module, (why, seen) in held.items() if now - seen < STUCK_AFTER}
        if last is None or _progress(look, stopped) != _progress(last, stopped):
            moved = now
        # Between the commit of a task and the counting of its outputs, or while a message is on
        # a link, nothing may seem to wait. Two idle looks with nothing stored between them are
        # the end: whatever was under way would have been stored somewhere, or would be seen.
        over = look.idle and last is not None and last.idle and look.stored == last.stored
        stuck = "" if now - moved < STUCK_AFTER else _stuck(stopped)
        if over or stuck:
            groups = sum([await post.node.open_groups() for post in posts])
            # Groups with a timeout end by themselves: it is worth waiting for them.
            expiring = sum([await post.node.expiring_groups() for post in posts])
            if stuck or not expiring:
                views = tuple(view for view in look.views if not view.link)
                return Ending(seconds=now - began, modules=views, open_groups=groups, stuck=stuck)
        last = look
        await asyncio.sleep(POLL)


async def _look(posts: Sequence[Post]) -> _Look:
    stored = await asyncio.gather(*(post.site.admin.last_sequence() for post in posts))
    views = await asyncio.gather(*(_views(post, len(posts) > 1) for post in posts))
    return _Look(stored=tuple(stored), views=tuple(chain.from_iterable(views)))


async def _views(post: Post, several: bool) -> list[ModuleView]:
    """Return how the modules of a site stand, and what waits there to be carried."""
    actors, site = post.node.actors, post.site.names.site
    backlogs = await asyncio.gather(*(post.broker.backlog(name) for name in actors))
    views = []
    for (name, actor), backlog in zip(actors.items(), backlogs, strict=True):
        counts = post.node.journal.of(name)
        views.append(
            ModuleView(
                module=f"{name}@{site}" if several else name,
                waiting=backlog.waiting,
                in_hand=backlog.in_hand,
                done=counts.done,
                retried=counts.retried,
                dead=counts.dead,
                suspended=actor.suspended,
            )
        )
    for other, count in (await post.site.outgoing()).items() if several else ():
        views.append(ModuleView(module=f"{site} → {other}", waiting=count, link=True))
    return views


def _progress(look: _Look, stopped: Mapping[str, str]) -> list[tuple[int, ...]]:
    """Return what changes when anything is done; of stopped modules, only what has ended."""
    return [
        (v.done, v.retried, v.dead, *(() if v.module in stopped else (v.waiting, v.in_hand)))
        for v in look.views
    ]


def _stuck(stopped: Mapping[str, str]) -> str:
    return "; ".join(f"{module}: {why}" for module, why in stopped.items())
