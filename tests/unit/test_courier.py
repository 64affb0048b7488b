"""The courier on doubles: what waits here arrives there once, at the rate of its link."""

import asyncio
import time
from collections.abc import Sequence

import msgspec
import pytest
from unit.road import HERE, THERE, Road, carried, end_pauses, expected, running, until

from scalebox_actors import courier as courier_module
from scalebox_actors.courier import Courier
from scalebox_actors.crossing import CARRIED, Passage, Passed, Tally, Toll, mark
from scalebox_actors.errors import Unavailable
from scalebox_actors.message import MSG_ID, REASON
from scalebox_actors.names import parcel_of
from scalebox_actors.ports import Entry, Refusal, Refused
from scalebox_actors.testing.hands import MemoryDelivery
from scalebox_actors.testing.memory import MemoryBroker
from scalebox_actors.topology.model import Link, Site, Size


@pytest.fixture(autouse=True)
def no_real_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no real time here."""
    end_pauses(monkeypatch)


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


class Denying(MemoryBroker):
    """A site whose server lets nobody write letters, until it is told to."""

    denies = True

    async def write(self, entries: Sequence[Entry], *, soon: bool = True) -> Refusal | None:
        """Refuse a batch with a letter in it, as for a login without the right to write one."""
        if self.denies and any(HERE.dead("calc", "*")[:-1] in entry.subject for entry in entries):
            return Refusal(Refused.UNACCEPTABLE, "denied", denied=True)
        return await super().write(entries, soon=soon)


async def test_what_cannot_be_buried_stays(caplog: pytest.LogCaptureFixture) -> None:
    """A letter that the server refuses is no reason to drop its message, nor its neighbours."""
    road = Road()
    road.here = denying = Denying(HERE, [], tape=road.tape)
    road.here.join(road.there)
    inside = [({MSG_ID: "calc0"}, b"0"), ({MSG_ID: "bad\r\n"}, b"?")]
    road.here.shelf.store(parcel_of(HERE.out("a", "calc"), 2), msgspec.msgpack.encode(inside), {})
    road.put(1, "late")
    async with running(road):
        await carried(road, 1)
        await until(lambda: "message_postponed" in caplog.messages)
        await until(lambda: road.tape.calls.count("delivery.give_back") == 1)
        stayed = road.waiting
        denying.denies = False
        road.here.advance(6)
        await until(lambda: not road.waiting)

    assert stayed == 2
    assert sorted(m.body for m in road.there.messages()) == [b"0", b"0"]
    assert [m.body for m in road.here.messages(HERE.dead("*", "*"))] == [b"?"]


async def test_an_ack_that_fails_ends_no_courier(monkeypatch: pytest.MonkeyPatch) -> None:
    """What holds nothing to carry may lose its ack, too: it comes again and is acked then."""
    road = Road()
    road.here.shelf.store(HERE.out("a", "calc"), b"x", {MSG_ID: "m"}, "no headers")
    done, failed = MemoryDelivery.done, list[int]()

    async def failing(self: MemoryDelivery) -> None:
        if not failed:
            failed.append(self.sequence)
            raise Unavailable("the server crashed and forgot this delivery")
        await done(self)

    monkeypatch.setattr(MemoryDelivery, "done", failing)
    async with running(road):
        await until(lambda: failed)
        road.put(1)
        road.here.hand_out()
        await carried(road, 1)
        road.here.advance(61)  # the ack_wait of what was let go
        await until(lambda: not road.waiting)

    assert [m.subject for m in road.here.messages(HERE.dead("*", "*"))] == [HERE.dead("calc", "m")]


async def test_what_cannot_be_given_back_ends_no_courier(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages of a module that is absent there are let go, whether or not that is heard."""
    road = Road()
    road.there = MemoryBroker(THERE, ["late"])
    road.here.join(road.there)
    monkeypatch.setattr(Courier, "_abandoned", lambda _, lane: lane.module == "calc")
    tried = list[int]()

    async def failing(self: MemoryDelivery, delay: float) -> None:
        del delay
        tried.append(self.sequence)
        raise Unavailable("the server crashed and forgot this delivery")

    monkeypatch.setattr(MemoryDelivery, "give_back", failing)
    road.put(1)
    async with running(road):
        await until(lambda: road.courier is not None and road.courier.status().down_since)
        road.put(1, first=1)
        road.here.hand_out()
        await until(lambda: tried)
        road.put(1, "late")
        road.here.hand_out()
        await carried(road, 1)

    assert road.waiting == 2


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


async def test_what_is_withdrawn_is_remembered_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every courier is told of every place, and few of them ever come to it."""
    monkeypatch.setattr(courier_module, "ACK_WAIT", 0.0)
    road = Road()
    async with running(road):
        assert road.courier is not None
        for place in range(100):
            road.courier.withdraw([place])
            time.sleep(1e-6)  # noqa: ASYNC251 - the clock goes on
        kept = len(road.courier._withdrawn)

    assert kept == 1


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
