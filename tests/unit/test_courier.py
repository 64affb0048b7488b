"""The courier on doubles: what waits here arrives there once, whatever dies or lies on the way."""

import asyncio
import contextlib
import os
import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from unit.crashworld import silence_the_dead

from scalebox_actors import courier as courier_module
from scalebox_actors import ledger as ledger_module
from scalebox_actors.committer import Committer
from scalebox_actors.courier import Courier, CourierDesk
from scalebox_actors.crossing import CARRIED, Tally, mark, received_key, sent_key
from scalebox_actors.effects import Effects, Scribe
from scalebox_actors.ledger import Ledger, placed
from scalebox_actors.message import MSG_ID
from scalebox_actors.names import Names
from scalebox_actors.ports import Delivery, Entry
from scalebox_actors.records import DoneRecord
from scalebox_actors.testing.memory import MemoryBroker
from scalebox_actors.testing.tape import Fault, Tape
from scalebox_actors.topology.model import Link, Module, Site, Topology

HERE, THERE = Names("t", "hub"), Names("t", "a")
TOPOLOGY = Topology(
    name="t",
    modules={name: Module(name=name, sites=("a",)) for name in ("calc", "late")},
    sites={"hub": Site(name="hub", hub=True), "a": Site(name="a")},
)
KINDS = list(Fault)
POLLS = 3000
LIVES = 12
WALKS = int(os.environ.get("SBX_WALKS", "60"))


@pytest.fixture(autouse=True)
def no_real_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed road is tried again at once: there is no real time here."""
    monkeypatch.setattr(courier_module, "PAUSE_MOST", 1e-6)
    monkeypatch.setattr(courier_module, "PAUSE_FIRST", 1e-6)
    monkeypatch.setattr(courier_module, "GIVE_BACK", 0.05)
    monkeypatch.setattr(ledger_module, "LOOK_AGAIN", -1.0)


class Road:
    """Two sites in memory, and one courier after the other; with another node beside it."""

    def __init__(self, faults: Mapping[int, Fault] | None = None, here: Site | None = None) -> None:
        self.tape = Tape(dict(faults or {}))
        self.here = MemoryBroker(HERE, [], tape=self.tape)
        self.there = MemoryBroker(THERE, ["calc", "late"])
        self.here.join(self.there)
        self.site = here or Site(name="hub", hub=True)
        self.lives = 0
        self.courier: Courier | None = None

    def put(self, count: int, module: str = "calc", **headers: str) -> None:
        """Let messages wait for the other site."""
        for number in range(count):
            given = {MSG_ID: f"{module}{number}", **headers}
            self.here.shelf.store(HERE.out("a", module), b"%d" % number, given)

    def start(self, node: str = "n1") -> "asyncio.Task[None]":
        """Start a courier on a node, with the committer that it shares."""
        committer = Committer(self.here, remember=60)
        scribe = Scribe(topology=TOPOLOGY, names=HERE, node=node, body_limit=1000)
        self.ledger = Ledger(self.here, node)
        desk = CourierDesk(committer=committer, scribe=scribe, ledger=self.ledger)
        courier = self.courier = Courier("a", self.site, self.here, desk)

        async def life() -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(committer.run())
                await courier.run()

        return asyncio.ensure_future(life())

    @property
    def waiting(self) -> int:
        """How much has not been taken out of our stream."""
        return len(self.here.messages(HERE.out("a", "*")))

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


async def test_what_waits_arrives_with_its_id_and_leaves() -> None:
    """Body and headers are those that were written; the courier adds where they come from."""
    road = Road()
    road.put(3, **{"Sbx-Headers": '{"k":"v"}'})
    async with running(road):
        await carried(road, 3)

    assert road.waiting == 0
    assert [(m.subject, m.body, dict(m.headers)) for m in road.there.messages()] == [
        (
            THERE.task("calc"),
            b"%d" % n,
            {MSG_ID: f"calc{n}", "Sbx-Headers": '{"k":"v"}', CARRIED: "hub"},
        )
        for n in range(3)
    ]
    assert await road.tally() == expected(3)


async def test_a_message_without_an_id_gets_one_that_every_courier_gives_it() -> None:
    """Handed over twice, it is still one message there."""
    road = Road()
    road.here.shelf.store(HERE.out("a", "calc"), b"x", {})
    async with running(road):
        await carried(road, 1)
    road.here.shelf._sequence = 0
    road.here.shelf.store(HERE.out("a", "calc"), b"x", {})
    async with running(road):
        await carried(road, 1)

    assert [m.body for m in road.there.messages()] == [b"x"]


async def test_what_nobody_can_read_is_set_aside_here() -> None:
    """A broken header block is a dead letter of this site and crosses no link."""
    road = Road()
    road.here.shelf.store(HERE.out("a", "calc"), b"x", {MSG_ID: "m"}, "no headers")
    async with running(road):
        await until(lambda: not road.waiting)

    assert road.there.messages() == []
    assert [m.subject for m in road.here.messages(HERE.dead("*", "*"))] == [HERE.dead("calc", "m")]


async def test_a_cut_road_loses_nothing_and_says_so() -> None:
    """Messages wait while there is no link, and go when there is one again."""
    road = Road()
    road.here.part(road.there)
    road.put(50)
    async with running(road):
        assert road.courier is not None
        courier = road.courier
        await until(lambda: courier.status().down_since)
        told = road.courier.status()
        road.here.join(road.there)
        await carried(road, 50)
        after = road.courier.status()

    assert "absent" in told.why
    assert (after.down_since, after.why, road.waiting) == (0.0, "", 0)
    assert len(road.there.messages(THERE.task("calc"))) == 50


async def test_the_urgent_goes_first() -> None:
    """Of what is in hand, the module with the higher priority goes first."""
    road = Road(here=Site(name="hub", hub=True, priorities={"late": 5}))
    road.here.part(road.there)
    road.put(20, "calc")
    road.put(20, "late")
    async with running(road):
        assert road.courier is not None
        courier = road.courier
        await until(lambda: courier.status().in_hand >= 40)
        road.there.fill()
        road.here.join(road.there)
        road.there.make_room()
        await carried(road, 40)

    subjects = [m.subject for m in road.there.messages()]
    assert subjects.index(THERE.task("late")) < 2
    assert subjects.count(THERE.task("late")) == 20


async def test_a_link_keeps_its_rate() -> None:
    """With `rate: 200` fifty messages more than a moment's worth take a quarter of a second."""
    road = Road(here=Site(name="hub", hub=True, link=Link(rate=200.0)))
    road.put(100)
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with running(road):
        await carried(road, 100)

    assert loop.time() - began > 0.2


async def test_an_ordered_stop_gives_back_what_was_not_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another node's courier has the rest at once, not after `ack_wait`."""
    monkeypatch.setattr(courier_module, "GIVE_BACK", 5.0)
    road = Road()
    road.here.part(road.there)
    road.put(30)
    async with running(road):
        assert road.courier is not None
        courier = road.courier
        # Down, and one message at most is being handed over to ask if the road is open.
        await until(lambda: courier.status().down_since and courier._window.flying < 500)
        await until(lambda: courier.status().in_hand >= 30)
    road.here.join(road.there)
    async with running(road):
        await carried(road, 25)  # but for the few that were just being handed over
        road.here.advance(61)
        await until(lambda: not road.waiting)

    assert road.waiting == 0


# --- crash enumeration --------------------------------------------------------------------------


async def enact(faults: Mapping[int, Fault]) -> None:
    """Carry five messages with faults: each arrives once, and the tally has each once."""
    road = Road(faults)
    road.put(5)
    try:
        await road.live()
        arrived = sorted(m.body for m in road.there.messages(THERE.task("calc")))
        assert arrived == [b"0", b"1", b"2", b"3", b"4"]
        assert await road.tally() == expected(5)
    except AssertionError as error:
        raise AssertionError(f"{faults}: {error}\n{road.tape.calls}") from error


@pytest.mark.timeout(120)
async def test_every_single_fault_of_a_courier() -> None:
    """At each call, each kind of fault: nothing lost, nothing doubled, the tally exact."""
    silence_the_dead()
    road = Road()
    road.put(5)
    await road.live()
    calls = len(road.tape.calls)
    assert calls > 10
    for number in range(1, calls + 1):
        for kind in KINDS:
            await enact({number: kind})


@pytest.mark.timeout(120)
async def test_random_walks_of_couriers() -> None:
    """Many faults, two nodes in turn; the seed in the message repeats a failure."""
    silence_the_dead()
    seed = int(os.environ.get("SBX_SEED", "0")) or random.SystemRandom().randrange(1 << 30)
    for walk in range(WALKS):
        chance = random.Random(seed + walk)  # noqa: S311 - a walk, not a secret
        calls = sorted(chance.sample(range(1, 80), chance.randint(2, 8)))
        try:
            await enact({call: chance.choice(KINDS) for call in calls})
        except AssertionError as error:
            raise AssertionError(f"SBX_SEED={seed} walk {walk}: {error}") from error


# --- the other end ------------------------------------------------------------------------------


def record(place: int = 0) -> Effects:
    """The end of a task, written by somebody."""
    entry = Entry(subject=THERE.done("calc", "calc0"), body=b'{"ended":"done"}', expect=0)
    del place
    return Effects(record=entry)


async def take_one(broker: MemoryBroker) -> Delivery:
    """The next delivery of `calc`."""
    intake = broker.intake("calc")
    async with intake:
        intake.grant(1)
        async for delivery in intake:
            return delivery
    raise AssertionError


async def test_the_receiving_end_counts_the_copy_that_was_committed_and_no_other() -> None:
    """A second copy of a message, stored after a restart forgot its id, is not counted."""
    there = MemoryBroker(THERE, ["calc"])
    ledger = Ledger(there, "n1")
    for _ in range(2):
        there.send("calc", b"0", {MSG_ID: "calc0", CARRIED: "hub"})
        there.forget_ids()
    first = await take_one(there)
    effects = placed(record(), first)
    assert await there.write([effects.record]) is None
    await ledger.receive(first, "calc", committed=True)
    await ledger.receive(await take_one(there), "calc", committed=False)

    assert await ledger.totals(received_key("hub")) == expected(1)
    assert there.messages(THERE.task("calc")) == []


async def test_a_node_that_died_before_counting_has_its_message_counted_by_the_next() -> None:
    """Committed, not counted, delivered again: the record names this copy, so it counts."""
    there = MemoryBroker(THERE, ["calc"])
    there.send("calc", b"0", {MSG_ID: "calc0", CARRIED: "hub"})
    first = await take_one(there)
    assert await there.write([placed(record(), first).record]) is None
    first.let_go()
    there.advance(61)
    await Ledger(there, "n2").receive(await take_one(there), "calc", committed=False)

    assert await Ledger(there, "n3").totals(received_key("hub")) == expected(1)


async def test_a_node_that_died_after_counting_has_its_message_not_counted_again() -> None:
    """The dead node's tally names the place, so its successor on another host leaves it."""
    tape = Tape()
    there = MemoryBroker(THERE, ["calc"], tape=tape)
    there.send("calc", b"0", {MSG_ID: "calc0", CARRIED: "hub"})
    first = await take_one(there)
    assert await there.write([placed(record(), first).record]) is None
    await Ledger(there, "n1").count(
        received_key("hub"), first.sequence, [mark("calc", "calc0", b"0")], again=False
    )
    first.let_go()
    there.advance(61)
    await Ledger(there, "n2").receive(await take_one(there), "calc", committed=False)

    assert await Ledger(there, "n3").totals(received_key("hub")) == expected(1)


async def test_what_was_made_here_is_not_counted() -> None:
    """A message of this site, or one with a forged origin, only leaves the stream."""
    there = MemoryBroker(THERE, ["calc"])
    for number, origin in enumerate(("a", "No Site", "")):
        there.send("calc", b"0", {MSG_ID: f"m{number}", CARRIED: origin})
        await Ledger(there, "n1").receive(await take_one(there), "calc", committed=True)

    assert await there.state_keys("link.from") == []
    assert there.messages(THERE.task("calc")) == []


async def test_a_record_names_a_place_only_for_what_came_from_elsewhere() -> None:
    """Local tasks keep the record that they have."""
    there = MemoryBroker(THERE, ["calc"])
    there.send("calc", b"0", {MSG_ID: "calc0"})
    delivery = await take_one(there)

    assert placed(record(), delivery) == record()
    assert DoneRecord(ended="done").place == 0  # type: ignore[arg-type]  # the word itself
