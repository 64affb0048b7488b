"""A road between two sites in memory, with couriers on it that live and die."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from scalebox_actors import courier as courier_module
from scalebox_actors import ledger as ledger_module
from scalebox_actors.committer import Committer
from scalebox_actors.courier import Courier, CourierDesk
from scalebox_actors.crossing import Tally, Toll, mark, sent_key
from scalebox_actors.effects import Scribe
from scalebox_actors.ledger import Ledger
from scalebox_actors.message import MSG_ID, USER
from scalebox_actors.names import Names, bound_for
from scalebox_actors.parcel import seal
from scalebox_actors.ports import Entry
from scalebox_actors.testing.memory import MemoryBroker
from scalebox_actors.testing.tape import Fault, Tape
from scalebox_actors.topology.model import Module, Site, Topology

HERE, THERE = Names("t", "hub"), Names("t", "a")
TOPOLOGY = Topology(
    name="t",
    modules={name: Module(name=name, sites=("a",)) for name in ("calc", "late")},
    sites={"hub": Site(name="hub", hub=True), "a": Site(name="a")},
)
POLLS = 3000
LIVES = 12


def end_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a closed road tried again at once: there is no real time here."""
    monkeypatch.setattr(courier_module, "PAUSE_MOST", 1e-6)
    monkeypatch.setattr(courier_module, "PAUSE_FIRST", 1e-6)
    monkeypatch.setattr(courier_module, "GIVE_BACK", 0.05)
    monkeypatch.setattr(courier_module, "GATHER", -1.0)
    monkeypatch.setattr(ledger_module, "GATHER", 0.0)


class Road:
    """Two sites in memory, and one courier after the other; with another node beside it."""

    def __init__(self, faults: Mapping[int, Fault] | None = None, here: Site | None = None) -> None:
        self.tape = Tape(dict(faults or {}))
        self.here = MemoryBroker(HERE, [], tape=self.tape)
        self.there = MemoryBroker(THERE, ["calc", "late"])
        self.here.join(self.there)
        self.site = here or Site(name="hub", hub=True)
        self.lives = 0
        self.nodes = 1
        self.courier: Courier | None = None

    def put(self, count: int, module: str = "calc", first: int = 0, own: str = "") -> None:
        """Let messages wait for the other site, each alone."""
        for number in range(first, first + count):
            given = {MSG_ID: f"{module}{number}"} | ({USER: own} if own else {})
            self.here.shelf.store(HERE.out("a", module), b"%d" % number, given)

    def enclose(self, *numbers: int, module: str = "calc") -> None:
        """Let messages wait in one parcel."""
        subject = HERE.out("a", module)
        entries = [
            Entry(subject=subject, body=b"%d" % n, headers={MSG_ID: f"{module}{n}"})
            for n in numbers
        ]
        sealed = seal(entries)
        self.here.shelf.store(sealed.subject, sealed.body, sealed.headers)

    def start(self, node: str = "n1") -> "asyncio.Task[None]":
        """Start a courier on a node, with the committer that it shares."""
        committer = Committer(self.here)
        scribe = Scribe(topology=TOPOLOGY, names=HERE, node=node, body_limit=1000)
        self.ledger = Ledger(self.here, node)
        desk = CourierDesk(
            committer=committer, scribe=scribe, ledger=self.ledger, toll=Toll(self.site.link)
        )
        desk.toll.share(self.nodes)
        courier = self.courier = Courier("a", self.site, self.here, desk)

        async def life() -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(committer.run())
                await courier.run()

        return asyncio.ensure_future(life())

    @property
    def waiting(self) -> int:
        """How much has not been taken out of our stream."""
        return sum(bound_for(m.subject).count for m in self.here.messages(HERE.out("a", ">")))

    async def live(self) -> None:
        """Let couriers live, on two nodes in turn, until nothing waits any more."""
        while not await self._one_life():
            self.here.crash()
            self.here.advance(61)
            self.tape.next_life()
            assert self.lives < LIVES, self.tape.calls[-30:]

    async def _one_life(self) -> bool:
        self.lives += 1
        life = self.start(f"n{self.lives % 2}")
        try:
            quiet = seen = 0
            for _ in range(POLLS):
                await asyncio.sleep(0)
                if not self.waiting:
                    return True
                if self.tape.dead or life.done():
                    return False
                quiet = quiet + 1 if len(self.tape.calls) == seen else 0
                seen = len(self.tape.calls)
                if quiet > 40:
                    self.here.advance(61)  # the ack_wait of what was let go
                    quiet = 0
            raise AssertionError(f"stuck: {self.tape.calls[-30:]}")
        finally:
            self.tape.dead = True
            writing = [page.writing for page in self.ledger._pages.values() if page.writing]
            for task in (life, *writing):
                task.cancel()
            await asyncio.gather(life, *writing, return_exceptions=True)
            self.tape.dead = False

    async def tally(self) -> Tally:
        """What the couriers of this site say that they carried."""
        self.tape._faults.clear()
        return await Ledger(self.here, "auditor").totals(sent_key("a"))


def expected(count: int, module: str = "calc") -> Tally:
    """The tally of that many messages."""
    return Tally().plus(mark(module, f"{module}{n}", b"%d" % n) for n in range(count))


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the courier is not made to tell us
            await asyncio.sleep(0.001)


async def carried(road: Road, count: int) -> None:
    """Wait until a courier has carried so many."""
    await until(lambda: road.courier is not None and road.courier.carried >= count)


@contextlib.asynccontextmanager
async def running(road: Road) -> Any:
    """A courier at work."""
    life = road.start()
    try:
        yield
    finally:
        life.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await life
