"""The courier on doubles: what waits here arrives there once, whatever dies or lies on the way."""

import asyncio
import contextlib
import os
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import pytest
from unit.crashworld import silence_the_dead

from scalebox_actors import courier as courier_module
from scalebox_actors import ledger as ledger_module
from scalebox_actors.committer import Committer
from scalebox_actors.courier import Courier, CourierDesk
from scalebox_actors.crossing import (
    CARRIED,
    Passage,
    Passed,
    Tally,
    Toll,
    mark,
    received_key,
    sent_key,
)
from scalebox_actors.effects import Effects, Scribe
from scalebox_actors.ledger import Ledger, placed
from scalebox_actors.message import MSG_ID, REASON, USER
from scalebox_actors.names import Names, bound_for, parcel_of
from scalebox_actors.parcel import seal
from scalebox_actors.ports import Delivery, Entry
from scalebox_actors.records import DoneRecord
from scalebox_actors.testing.memory import MemoryBroker
from scalebox_actors.testing.tape import Fault, Tape
from scalebox_actors.topology.model import Link, Module, Site, Size, Topology

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
        committer = Committer(self.here, remember=60)
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


async def test_what_waits_arrives_with_its_id_and_leaves() -> None:
    """Body and headers are those that were written; the courier adds where they come from."""
    road = Road()
    road.put(3, own='{"k":"v"}')
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


async def test_a_parcel_arrives_as_the_messages_in_it() -> None:
    """Over there nothing tells that they travelled together; here they leave with one ack."""
    road = Road()
    road.enclose(0, 1, 2)
    road.put(2, "late")
    async with running(road):
        await carried(road, 5)

    assert [(m.subject, m.body, dict(m.headers)) for m in road.there.messages()] == [
        *((THERE.task("calc"), b"%d" % n, {MSG_ID: f"calc{n}", CARRIED: "hub"}) for n in range(3)),
        *((THERE.task("late"), b"%d" % n, {MSG_ID: f"late{n}", CARRIED: "hub"}) for n in range(2)),
    ]
    assert road.tape.calls.count("delivery.done") == 3
    assert await road.tally() == expected(3).added(expected(2, "late"))


async def test_of_a_parcel_only_what_is_missing_is_handed_over_again() -> None:
    """It is acked when the last of it has arrived, and counted once."""
    road = Road()
    handed: list[list[bytes]] = []

    class Narrow(MemoryBroker):
        """A way on which the second message gets through at the second try only."""

        async def forward(self, entries: Sequence[Entry], *, seconds: float) -> Sequence[Passage]:
            handed.append([entry.body for entry in entries])
            passages = list(await super().forward(entries, seconds=seconds))
            if len(handed) == 1:
                assert road.tape.calls.count("delivery.done") == 0
                passages[1] = Passage(Passed.SILENT, "no answer")
            return passages

    road.here = Narrow(HERE, [], tape=road.tape)
    road.here.join(road.there)
    road.enclose(0, 1, 2)
    async with running(road):
        await carried(road, 3)

    assert handed == [[b"0", b"1", b"2"], [b"1"]]
    assert (road.waiting, len(road.there.messages())) == (0, 3)
    assert await road.tally() == expected(3)


async def test_what_the_other_site_refuses_lets_others_pass() -> None:
    """A message that is too large over there waits for a person, behind all that can go."""
    road = Road()
    road.there = MemoryBroker(THERE, ["calc", "late"], max_payload=200)
    taken = road.there.take_in

    def take_in(entry: Entry) -> Passage:
        return Passage(Passed.REFUSED, "too large") if len(entry.body) > 200 else taken(entry)

    road.there.take_in = take_in  # type: ignore[method-assign]  # what JetStream answers
    road.here.join(road.there)
    road.here.shelf.store(HERE.out("a", "calc"), b"x" * 300, {MSG_ID: "large"})
    road.put(20)
    async with running(road):
        await carried(road, 20)
        assert road.courier is not None
        told = road.courier.status()

    assert (road.waiting, told.in_hand) == (1, 1)
    assert "refused" in told.why


async def test_one_bad_message_of_a_parcel_is_buried_and_the_others_go() -> None:
    """Its letter has an id that follows from its place, so that it is buried once."""
    road = Road()
    inside = [({MSG_ID: "calc0"}, b"0"), ({MSG_ID: "bad\r\n"}, b"?"), ({MSG_ID: "calc1"}, b"1")]
    body = msgspec.msgpack.encode(inside)
    for _ in range(2):  # as it is when a courier dies between the burial and the ack
        road.here.shelf.store(parcel_of(HERE.out("a", "calc"), 3), body, {})
        async with running(road):
            await until(lambda: not road.waiting)
        road.here.shelf._sequence = 0

    assert sorted(m.body for m in road.there.messages()) == [b"0", b"1"]
    (letter,) = road.here.messages(HERE.dead("*", "*"))
    assert (letter.body, letter.headers[REASON]) == (b"?", "bad_message")


@pytest.mark.parametrize(
    ("subject", "body"),
    [
        pytest.param(parcel_of(HERE.out("a", "calc"), 2), b"\xff", id="no-parcel"),
        pytest.param(f"{HERE.out('a', 'calc')}.strange", b"x", id="no-number"),
    ],
)
async def test_what_is_no_parcel_is_buried_as_one_message(subject: str, body: bytes) -> None:
    """It holds up nothing, and an operator finds it whole."""
    road = Road()
    road.here.shelf.store(subject, body, {})
    road.put(1)
    async with running(road):
        await until(lambda: not road.waiting)

    (letter,) = road.here.messages(HERE.dead("calc", "*"))
    assert (letter.body, [m.body for m in road.there.messages()]) == (body, [b"0"])


async def test_what_is_in_hand_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a road is closed a courier takes what it has room for, in messages and bytes."""
    monkeypatch.setattr(courier_module, "IN_HAND", 20)
    monkeypatch.setattr(courier_module, "ASKED", 2)
    road = Road()
    road.here.part(road.there)
    for start in range(0, 100, 10):
        road.enclose(*range(start, start + 10))
    async with running(road):
        assert road.courier is not None
        courier = road.courier
        await until(lambda: courier.status().in_hand >= 20)
        await until(lambda: courier.status().down_since)
        most = courier.status().in_hand
        road.here.join(road.there)
        await carried(road, 100)

    assert most <= 20 + 2 * 10
    assert (road.waiting, courier.status().in_hand) == (0, 0)


async def test_what_is_withdrawn_is_not_carried() -> None:
    """A delivery of which nothing is on its way is let go of, and comes again if it is there."""
    road = Road()
    road.here.part(road.there)
    road.enclose(0, 1, 2)
    road.enclose(3, 4)
    async with running(road):
        assert road.courier is not None
        courier = road.courier
        await until(lambda: courier.status().in_hand == 5)
        first, second = (m.sequence for m in road.here.messages(HERE.out("a", ">")))
        underway = [first]
        while underway:  # it may be the one that knocks
            await asyncio.sleep(0)
            underway = courier.withdraw([first, 999])
        road.here.remove(first)
        road.here.join(road.there)
        await carried(road, 2)
        road.here.advance(61)

    assert second not in {m.sequence for m in road.here.messages(HERE.out("a", ">"))}
    assert sorted(m.body for m in road.there.messages()) == [b"3", b"4"]
    assert await road.tally() == Tally().plus(mark("calc", f"calc{n}", b"%d" % n) for n in (3, 4))


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


async def test_two_couriers_keep_the_rate_of_their_link() -> None:
    """The limit is the link's: two nodes have half of it each."""
    road = Road(here=Site(name="hub", hub=True, link=Link(rate=200.0)))
    road.nodes = 2
    road.put(150)
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with running(road):
        first = road.courier
        async with running(road):
            await until(lambda: not road.waiting)
            second = road.courier
    assert first is not None
    assert second is not None

    assert loop.time() - began > (150 - 0.25 * 200 - 2) / 200
    assert first.carried + second.carried == 150


async def test_couriers_to_two_sites_pay_at_one_toll() -> None:
    """What may leave a site is one limit, wherever messages go."""
    toll = Toll(Link(rate=100.0, bandwidth=Size(1000)))
    toll.share(2)
    first, second = toll.room(256, 10_000, 1.0), toll.pay(12, 125, 1.0)
    later = toll.room(256, 10_000, 1.0)

    assert (first, second) == ((12, 125), 0.0)
    assert later == (1, 1)
    assert toll.pay(1, 500, 1.0) == pytest.approx(1.0)


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


SHAPES = ("alone", "parcel", "both", "broken")


def laid(shape: str, faults: Mapping[int, Fault] | None = None) -> Road:
    """Five messages that wait: each alone, all in one parcel, some of both, or with a bad one."""
    road = Road(faults)
    if shape == "broken":
        inside = [({MSG_ID: f"calc{n}"}, b"%d" % n) for n in range(5)]
        body = msgspec.msgpack.encode([*inside[:2], ({MSG_ID: "\n"}, b"bad"), *inside[2:]])
        road.here.shelf.store(parcel_of(HERE.out("a", "calc"), 6), body, {})
        return road
    together = {"alone": 0, "parcel": 5, "both": 3}[shape]
    if together:
        road.enclose(*range(together))
    road.put(5 - together, first=together)
    return road


async def enact(faults: Mapping[int, Fault], shape: str) -> None:
    """Carry five messages with faults: each arrives once, and the tally has each once."""
    road = laid(shape, faults)
    try:
        await road.live()
        arrived = sorted(m.body for m in road.there.messages(THERE.task("calc")))
        assert arrived == [b"0", b"1", b"2", b"3", b"4"]
        assert await road.tally() == expected(5)
        assert len(road.here.messages(HERE.dead("*", "*"))) == (shape == "broken")
    except AssertionError as error:
        raise AssertionError(f"{shape} {faults}: {error}\n{road.tape.calls}") from error


@pytest.mark.timeout(120)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("load", [2, 256])
async def test_every_single_fault_of_a_courier(
    shape: str, load: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each call, each kind of fault: nothing lost, nothing doubled, the tally exact.

    With a load of two messages a parcel crosses in parts, and may be there in part only.
    """
    monkeypatch.setattr(courier_module, "LOAD_MESSAGES", load)
    silence_the_dead()
    road = laid(shape)
    await road.live()
    calls = len(road.tape.calls)
    assert calls >= 5
    for number in range(1, calls + 1):
        for kind in KINDS:
            await enact({number: kind}, shape)


@pytest.mark.timeout(120)
async def test_random_walks_of_couriers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many faults, two nodes in turn; the seed in the message repeats a failure."""
    monkeypatch.setattr(courier_module, "LOAD_MESSAGES", 2)
    silence_the_dead()
    seed = int(os.environ.get("SBX_SEED", "0")) or random.SystemRandom().randrange(1 << 30)
    for walk in range(WALKS):
        chance = random.Random(seed + walk)  # noqa: S311 - a walk, not a secret
        calls = sorted(chance.sample(range(1, 80), chance.randint(2, 8)))
        try:
            shape = chance.choice(SHAPES)
            await enact({call: chance.choice(KINDS) for call in calls}, shape)
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
        received_key("hub"), first.sequence, [mark("calc", "calc0", b"0")]
    )
    first.let_go()
    there.advance(61)
    await Ledger(there, "n2").receive(await take_one(there), "calc", committed=False)

    assert await Ledger(there, "n3").totals(received_key("hub")) == expected(1)


@pytest.mark.parametrize("second", ["n1", "n2"])
async def test_what_a_killed_server_hands_out_as_if_it_were_new_is_not_counted_again(
    second: str,
) -> None:
    """An ack that was confirmed may be forgotten: its place is written down on some node."""
    road = Road()
    road.enclose(0, 1, 2)
    (stored,) = road.here.messages(HERE.out("a", ">"))
    for node in ("n1", second):
        life = road.start(node)
        await carried(road, 3)
        life.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await life
        road.here.crash()
        road.here.shelf._sequence = stored.sequence - 1
        road.here.shelf.store(stored.subject, stored.body, stored.headers)

    assert len(road.there.messages()) == 3
    assert await road.tally() == expected(3)


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
