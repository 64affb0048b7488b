"""A broker of either kind with the streams of one topology, and how time passes for it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from scalebox_actors.broker import JetStreamBroker, connect, ensure
from scalebox_actors.message import MSG_ID
from scalebox_actors.names import Names
from scalebox_actors.ports import Broker, Delivery, Entry, Intake
from scalebox_actors.server import EmbeddedServer, Settings
from scalebox_actors.testing.memory import MemoryBroker
from scalebox_actors.topology.model import Module, Topology

NAMES = Names("app", "local")
MODULES = ("calc", "merge")
CALC = NAMES.task("calc")
KINDS = ("memory", pytest.param("jetstream", marks=pytest.mark.integration))

Pass = Callable[[float], Awaitable[None]]


class Bench:
    """A broker under test, and how time passes for it."""

    def __init__(self, broker: Broker, pass_time: Pass) -> None:
        self.broker = broker
        self.pass_time = pass_time
        self.write = broker.write


@asynccontextmanager
async def open_bench(request: pytest.FixtureRequest, place: Path) -> AsyncIterator[Bench]:
    """Open the broker that is asked for, with the streams of one topology and nothing in them."""
    if request.param == "memory":
        memory = MemoryBroker(NAMES, MODULES)

        async def advance(seconds: float) -> None:
            memory.advance(seconds)

        yield Bench(memory, advance)
        return
    topology = Topology(name="app", modules={name: Module(name=name) for name in MODULES})
    with EmbeddedServer(place / "store", Settings(durable=False)) as server:
        link = await connect(server.url, name="contract", events=lambda *_: None)
        try:
            await ensure(link, topology, NAMES)
            yield Bench(await JetStreamBroker.open(link, NAMES), asyncio.sleep)
        finally:
            await link.close()


def task(number: int, **headers: str) -> Entry:
    """One task for `calc` with its own id."""
    return Entry(subject=CALC, body=b"%d" % number, headers={MSG_ID: f"m{number}", **headers})


def record(token: str, expect: int | None = 0) -> Entry:
    """A done-record of `calc`."""
    return Entry(subject=NAMES.done("calc", token), body=b"{}", expect=expect)


async def take(intake: Intake, count: int) -> list[Delivery]:
    """The next `count` deliveries."""
    deliveries: list[Delivery] = []
    async for delivery in intake:
        deliveries.append(delivery)
        if len(deliveries) == count:
            break
    return deliveries


async def nothing_comes(intake: Intake) -> bool:
    """Whether no delivery comes within a moment."""
    try:
        async with asyncio.timeout(0.2):
            await take(intake, 1)
    except TimeoutError:
        return True
    return False


async def bodies(broker: Broker, pattern: str) -> list[bytes]:
    """What is stored on a pattern, oldest first."""
    return [stored.body for stored in await broker.read_all(pattern)]
