"""The one stream of events that tells us of every exit.

Its gaps are closed by looking: after each (re)connect, and now and then, running containers are
listed once, and whoever waits for one that is not among them inspects it. An event or a look says
*look again*, and what happened is read from inspect; only where a container that has no limit of
memory ended with 0, and nothing was missed, there is nothing more to learn.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from weakref import WeakValueDictionary

import aiodocker
import aiohttp
import msgspec

from scalebox_actors.errors import UNREADABLE, RuntimeUnavailable
from scalebox_actors.runtimes.docker_answers import Answer, Step
from scalebox_actors.runtimes.docker_engine import Engine

OURS = "sbx.topology"
"""The label that every container of ours has."""
LOOK_EVERY = 15.0
STOPPING = 20.0
"""An engine that is stopped gives containers up to so many seconds before it goes."""
REMEMBERED_GAPS = 16
START, DIE, OOM = "start", "die", "oom"
ENDS = frozenset((DIE, "died", "destroy", "remove", OOM))
HEARD = sorted({START, "kill", *ENDS})
SIGNALS = frozenset(("9", "15", "SIGKILL", "SIGTERM", "kill", "terminated"))

log = logging.getLogger(__name__)


class Actor(msgspec.Struct, frozen=True, rename={"id": "ID", "attributes": "Attributes"}):
    """Whom an event is about."""

    id: str = ""
    attributes: dict[str, str] = {}


class Event(
    msgspec.Struct,
    frozen=True,
    rename={"action": "Action", "actor": "Actor", "nanoseconds": "timeNano"},
):
    """One event, as far as we read it."""

    action: str = ""
    actor: Actor = Actor()
    nanoseconds: int = 0

    @property
    def at(self) -> float:
        """When it happened."""
        return self.nanoseconds / 1e9


class Listed(msgspec.Struct, rename={"id": "Id"}):
    """One container in a list."""

    id: str


class Watch:
    """Somebody's interest in one container; everybody interested in it shares one."""

    def __init__(self, container: str) -> None:
        self.container = container
        self.name = ""
        """The name that its runs go by."""
        self.news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when there is reason to look; take hold of it before looking."""
        self.ended_by_us = False
        self.since = time.time()
        self.signalled = False
        """Somebody else, or an engine that is being stopped, sent a signal that ends."""
        self.unsure = True
        """Events may not tell all of its end: it may have met a limit of memory, for one."""
        self.parent = ""
        """The control group that its own was made in, if we made it."""
        self.started = 0.0
        self.succeeded = 0.0
        """When it was heard to end with 0."""

    def wake(self) -> None:
        """Make everybody who waits look, and the next ones wait again."""
        news, self.news = self.news, asyncio.get_running_loop().create_future()
        news.set_result(None)


class Events:
    """Reads the stream for as long as the runtime is open."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._watches: WeakValueDictionary[str, Watch] = WeakValueDictionary()
        self._gaps: list[tuple[float, float]] = []
        self._connected = asyncio.Event()
        self._due = asyncio.Event()
        self._decode = msgspec.json.Decoder(Event).decode
        self._tasks = [
            asyncio.get_running_loop().create_task(work) for work in (self._listen(), self._look())
        ]

    async def ready(self) -> None:
        """Return when the stream stands."""
        await self._connected.wait()

    def watch(self, container: str) -> Watch:
        """Return the watch on a container; to miss nothing, before it is started."""
        watch = self._watches.get(container)
        if watch is None:
            watch = self._watches[container] = Watch(container)
        return watch

    def engine_was_stopped(self, at: float) -> bool:
        """Whether a container that ended then may have been ended by the engine's own end."""
        return any(lost - STOPPING <= at <= found + STOPPING for lost, found in self._gaps)

    async def close(self) -> None:
        """Stop listening."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _listen(self) -> None:
        filters: dict[str, list[str]] = {"type": ["container"]}
        if not self._engine.traits.podman:
            filters |= {"label": [OURS], "event": HEARD}
        query, pause, lost = {"filters": json.dumps(filters)}, 0.05, 0.0
        while True:
            try:
                async for line in self._lines(query):
                    if not self._connected.is_set():
                        self._begin(lost)
                    if line:
                        self._heard(self._decode(line))
            except (aiodocker.DockerError, aiohttp.ClientError, OSError, *UNREADABLE) as e:
                log.debug("engine_events", extra={"detail": str(e)})
            if self._connected.is_set():
                self._cut()
                pause, lost = 0.05, time.time()
            await asyncio.sleep(pause)
            pause = min(2 * pause, 2.0)

    async def _lines(self, query: Mapping[str, str]) -> AsyncGenerator[bytes, None]:
        """Yield an empty line once the stream stands, then a line per event."""
        unread = b""
        async with contextlib.aclosing(self._engine.stream("events", query)) as pieces:
            async for piece in pieces:
                *lines, unread = (unread + piece).split(b"\n")
                for line in lines or [b""]:
                    yield line.strip()

    def _cut(self) -> None:
        log.warning("engine_events_cut", extra={"detail": self._engine.host})
        self._connected.clear()
        for watch in self._watches.values():
            watch.unsure = True  # what is missed now, nobody will tell

    def _begin(self, lost: float) -> None:
        if lost:
            self._gaps = [*self._gaps[-REMEMBERED_GAPS:], (lost, time.time())]
        self._connected.set()
        self._due.set()

    def _heard(self, event: Event) -> None:
        watch = self._watches.get(event.actor.id)
        if watch is None:
            return
        if event.action == "kill":
            watch.signalled |= event.actor.attributes.get("signal", "") in SIGNALS
        elif event.action == START:
            watch.started, watch.succeeded = event.at, 0.0
        elif event.action in ENDS:
            watch.unsure |= event.action == OOM
            if event.action == DIE and event.actor.attributes.get("exitCode") == "0":
                watch.succeeded = event.at
            watch.wake()

    async def _look(self) -> None:
        """Now and then, and after each connect, see to it that no missed event is waited for."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY):
                    await self._due.wait()
                    self._due.clear()
                    # The engine answers a moment before it subscribes us.
                    await asyncio.sleep(0.5)
            if self._watches and self._connected.is_set():
                with contextlib.suppress(RuntimeUnavailable, *UNREADABLE):
                    await self._wake_ended()

    async def _wake_ended(self) -> None:
        query = {"filters": json.dumps({"label": [OURS]})}
        told = await self._engine.call(
            Step.OTHER, lambda: self._engine.request("GET", "containers/json", query)
        )
        if isinstance(told, Answer):
            return
        running = {listed.id for listed in msgspec.json.decode(told, type=list[Listed])}
        for watch in list(self._watches.values()):
            if watch.container not in running:
                watch.wake()
