"""The courier on doubles: what waits here arrives there once, at the rate of its link."""

import asyncio
import time

import pytest
from unit.road import HERE, THERE, Road, carried, end_pauses, expected, running, until

from scalebox_actors import cargo as cargo_module
from scalebox_actors import courier as courier_module
from scalebox_actors.crossing import CARRIED, Passage, Passed, Tally, Toll, mark
from scalebox_actors.message import MSG_ID
from scalebox_actors.ports import Entry
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


async def test_what_is_in_hand_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a road is closed a courier takes what it has room for, in messages and bytes."""
    monkeypatch.setattr(cargo_module, "IN_HAND", 20)
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
        (packet,) = (p for p in courier._hold.packets if p.delivery.sequence == first)
        underway = {first: [0, 1, 2]}
        while underway:  # it may have the one that knocks
            await asyncio.sleep(0)
            underway = courier.withdraw({first: [0, 1, 2], 999: [0]})
        await until(lambda: packet.flying == 0)
        road.here.remove(first)
        road.here.join(road.there)
        await carried(road, 2)
        road.here.advance(61)

    assert second not in {m.sequence for m in road.here.messages(HERE.out("a", ">"))}
    assert sorted(m.body for m in road.there.messages()) == [b"3", b"4"]
    assert await road.tally() == Tally().plus(mark("calc", f"calc{n}", b"%d" % n) for n in (3, 4))


async def test_what_waits_of_a_parcel_is_withdrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parcel that has crossed in part is let go of, unless all that is meant has got away."""
    monkeypatch.setattr(courier_module, "PAUSE_FIRST", 60.0)
    monkeypatch.setattr(courier_module, "PAUSE_MOST", 60.0)
    road = Road()
    take_in = road.there.take_in

    def narrow(entry: Entry) -> Passage:
        return take_in(entry) if entry.body in (b"0", b"1") else Passage(Passed.ABSENT)

    monkeypatch.setattr(road.there, "take_in", narrow)
    road.enclose(*range(6))
    (parcel,) = (m.sequence for m in road.here.messages(HERE.out("a", ">")))
    async with running(road):
        assert road.courier is not None
        courier = road.courier
        await until(lambda: courier.status().down_since)
        monkeypatch.setattr(road.there, "take_in", take_in)

        arrived = courier.withdraw({parcel: [0, 1]})
        still = courier.status().in_hand
        got_away = courier.withdraw({parcel: [0, 5]})
        # As who cancels does: what stays is stored anew, then the parcel is removed.
        road.enclose(*range(5))
        road.here.remove(parcel)
        courier._lanes["calc"].next = 0.0
        road.here.hand_out()
        await carried(road, 5)

    assert (arrived, still, got_away) == ({parcel: [0, 1]}, 6, {parcel: [0]})
    assert sorted(m.body for m in road.there.messages()) == [b"0", b"1", b"2", b"3", b"4"]
    assert await road.tally() == expected(5)


async def test_what_is_withdrawn_is_remembered_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every courier is told of every place, and few of them ever come to it."""
    monkeypatch.setattr(courier_module, "ACK_WAIT", 0.0)
    road = Road()
    async with running(road):
        assert road.courier is not None
        for place in range(100):
            road.courier.withdraw({place: [0]})
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
