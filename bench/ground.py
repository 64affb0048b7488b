"""The ground that both sides run on: an embedded server, streams, messages that wait.

The server and the streams are the product's own, for the baseline too: only what handles the
messages differs.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from scalebox_actors.broker import Admin, JetStreamBroker, Link, connect, ensure
from scalebox_actors.limits import BATCH_MESSAGES
from scalebox_actors.message import MSG_ID
from scalebox_actors.names import Names, digest
from scalebox_actors.ports import Entry
from scalebox_actors.server import EmbeddedServer
from scalebox_actors.topology.model import Launch, Module, Topology


class UnsoundError(Exception):
    """A side did not do what it was to be measured at; its time means nothing."""


class Ground:
    """A durable server and a connection to it."""

    def __init__(self, server: EmbeddedServer, link: Link) -> None:
        self.server = server
        self.link = link

    @property
    def url(self) -> str:
        """Where the server is reached."""
        return self.server.url

    async def lay(self, topology: Topology) -> JetStreamBroker:
        """Make the streams of a topology."""
        names = Names(topology.name)
        await ensure(self.link, topology, names)
        return await JetStreamBroker.open(self.link, names)

    async def clear(self, topology: Topology) -> None:
        """Remove everything of a topology."""
        await Admin(self.link, Names(topology.name)).purge_topology()

    async def check(self, topology: Topology, *, records: int) -> None:
        """Raise unless nothing waits and exactly so many done-records were written."""
        names = Names(topology.name)
        admin = Admin(self.link, names)
        for module in topology.modules:
            backlog = await admin.backlog(module)
            if backlog.waiting or backlog.in_hand:
                raise UnsoundError(f"{names.topology}.{module}: {backlog} is left")
        done = await admin.sizes()
        stored = next(size.messages for size in done if size.name == names.stream)
        if stored != records:
            raise UnsoundError(f"{names.topology}: {stored} records instead of {records}")


@asynccontextmanager
async def ground(folder: Path) -> AsyncIterator[Ground]:
    """Start a server in `folder` that syncs every write, and end it."""
    with EmbeddedServer(folder / "store") as server:
        link = await connect(server.url, name="bench", events=_ignore)
        try:
            yield Ground(server, link)
        finally:
            await link.close()


async def inject(broker: JetStreamBroker, module: str, count: int, *, first: int = 0) -> None:
    """Let `count` messages wait for a module; stored in batches, made batch by batch."""
    subject = broker.names.task(module)
    for start in range(first, first + count, BATCH_MESSAGES):
        entries = [
            Entry(
                subject=subject,
                body=b"message %d" % number,
                headers={MSG_ID: digest("bench", number)},
            )
            for number in range(start, min(start + BATCH_MESSAGES, first + count))
        ]
        injected = await broker.inject(entries)
        if injected.stored != len(entries):
            raise UnsoundError(f"{injected} of {len(entries)} messages")


def chain(name: str, slots: int) -> Topology:
    """Return two modules in a row that do nothing, in function mode."""
    return Topology(
        name=name,
        modules={
            "first": Module(
                name="first",
                function="functions:relay",
                launch=Launch.FUNCTION,
                slots=slots,
                sinks=("second",),
            ),
            "second": Module(
                name="second", function="functions:swallow", launch=Launch.FUNCTION, slots=slots
            ),
        },
    )


def one_function(name: str, slots: int) -> Topology:
    """Return one function that does nothing."""
    module = Module(name="only", function="functions:swallow", launch=Launch.FUNCTION, slots=slots)
    return Topology(name=name, modules={"only": module})


def program(name: str, slots: int, *command: str, image: str = "") -> Topology:
    """Return one module that runs a program per message."""
    module = Module(name="only", image=image, command=command, slots=slots)
    return Topology(name=name, modules={"only": module})


def _ignore(event: str, detail: str) -> None:
    """Say nothing: the sides are checked by what they stored."""
