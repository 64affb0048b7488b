"""A site for tests of the broker: a server on a kept store, a link, and what was told."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from scalebox_actors.broker import JetStreamBroker, Link, connect, ensure
from scalebox_actors.message import MSG_ID
from scalebox_actors.names import Names
from scalebox_actors.ports import Entry
from scalebox_actors.server import EmbeddedServer
from scalebox_actors.topology.model import Module, Topology

NAMES = Names("rec", "local")
CALC = NAMES.task("calc")
MODULES = {name: Module(name=name) for name in ("calc", "merge")}
TOPOLOGY = Topology(name="rec", modules=MODULES)


class Site:
    """A server on a kept store, a link and the events it told."""

    def __init__(self, server: EmbeddedServer) -> None:
        self.server = server
        self._told: list[str] = []
        self._news = asyncio.Event()
        self.link: Link
        self.broker: JetStreamBroker

    def note(self, event: str, text: str) -> None:
        """Take an event of the adapter."""
        self._told.append(f"{event}: {text}")
        self._news.set()

    def kill(self) -> None:
        """End the server as a crash would, and start it again on the same files."""
        os.kill(self.server.pid, signal.SIGKILL)
        while self.server.alive:
            pass
        self.server.start()

    async def told(self, event: str) -> None:
        """Wait until an event was told."""
        while not any(told.startswith(event) for told in self._told):
            self._news.clear()
            await self._news.wait()


@asynccontextmanager
async def open_site(store: Path) -> AsyncIterator[Site]:
    """A site with a synced store and the streams of one topology."""
    with EmbeddedServer(store) as server:
        site = Site(server)
        site.link = await connect(server.url, name="test", events=site.note)
        await ensure(site.link, TOPOLOGY, NAMES)
        site.broker = await JetStreamBroker.open(site.link, NAMES)
        yield site
        await site.link.close()


def task(number: int) -> Entry:
    """One task with its own id."""
    return Entry(subject=CALC, body=b"%d" % number, headers={MSG_ID: f"m{number}"})


def record(token: str) -> Entry:
    """A done-record."""
    return Entry(subject=NAMES.done("calc", token), expect=0)
