"""A courier's hands: what a module that is absent there may fill of them, and who gets the rest."""

import asyncio
import time

import pytest
from unit.road import HERE, THERE, Road, carried, end_pauses, running, until

from scalebox_actors import cargo as cargo_module
from scalebox_actors import courier as courier_module
from scalebox_actors.cargo import OVERHEAD, PART, Hold, Item, Lane, Packet
from scalebox_actors.courier import SOON
from scalebox_actors.message import MSG_ID
from scalebox_actors.ports import Entry
from scalebox_actors.testing.memory import MemoryBroker

HANDS = 16
WAITING = 40
LATE = 0.02


@pytest.fixture(autouse=True)
def small_hands(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is little room and little patience."""
    end_pauses(monkeypatch)
    monkeypatch.setattr(courier_module, "ABANDON_AFTER", LATE)
    monkeypatch.setattr(courier_module, "ASKED", 4)


def lane_of(*counts: int) -> tuple[Lane, list[Packet]]:
    """A lane with parcels of so many messages, of 1,000 bytes each."""
    lane, packets = Lane("calc", 0), []
    for count in counts:
        packet = Packet(MemoryBroker, count=count, size=1000 * count)  # type: ignore[arg-type]
        lane.add([Item(packet, Entry(subject="s"), 1000, place) for place in range(count)])
        packets.append(packet)
    return lane, packets


@pytest.mark.parametrize(("limit", "each"), [("IN_HAND", 1), ("IN_HAND_BYTES", OVERHEAD + 1)])
async def test_an_absent_module_leaves_room_for_others(
    monkeypatch: pytest.MonkeyPatch, limit: str, each: int
) -> None:
    """More than a courier holds waits for it, and nothing else has come for long."""
    monkeypatch.setattr(cargo_module, limit, HANDS * each)
    road = Road()
    road.there = MemoryBroker(THERE, ["late"])
    road.here.join(road.there)
    for number in range(WAITING):
        road.here.shelf.store(HERE.out("a", "calc"), b"x", {MSG_ID: f"calc{number}"})
    async with running(road):
        courier = road.courier
        assert courier is not None
        await until(lambda: courier._hold.full)
        await asyncio.sleep(2 * LATE)
        road.put(5, "late")
        road.here.hand_out()
        await carried(road, 5)
        held = courier.status().in_hand

    assert held <= HANDS + 4
    assert road.waiting == WAITING


async def test_while_nothing_arrives_little_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be the link that is down: all would only come and go, and be late at the heal."""
    monkeypatch.setattr(cargo_module, "IN_HAND", HANDS)
    road = Road()
    road.here.part(road.there)
    road.put(WAITING)
    async with running(road):
        courier = road.courier
        assert courier is not None
        await until(lambda: courier._hold.full)
        began = time.monotonic()
        await asyncio.sleep(4 * LATE)
        back = road.tape.calls.count("delivery.give_back")
        looks = 1 + (time.monotonic() - began) / LATE
        road.here.join(road.there)
        await until(lambda: not courier.status().down_since)
        road.here.advance(SOON)
        await carried(road, WAITING)

    assert 0 < back <= looks * HANDS // PART


def test_what_makes_room_is_the_newest_of_which_nothing_is_underway(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whole deliveries go, about an eighth of a courier's hands, by number or by bytes."""
    monkeypatch.setattr(cargo_module, "IN_HAND", 8 * 5)
    lane, (first, second, third, fourth) = lane_of(3, 3, 3, 3)
    third.flying = 1
    several = lane.spare()
    monkeypatch.setattr(cargo_module, "IN_HAND_BYTES", 8 * 1000)
    one = lane.spare()
    lane.drop(several)

    assert (several, one) == ([fourth, second], [fourth])
    assert {item.packet for item in lane.items} == {first, third}
    assert lane.size == 6000


def test_a_lane_knows_its_size() -> None:
    """Whatever is taken from it and put back."""
    lane, packets = lane_of(2, 3)
    sizes = [lane.size]
    load = lane.load(3, 10_000)
    sizes.append(lane.size)
    lane.put_back(load[:1], load[1:])
    sizes.append(lane.size)
    lane.drop(packets[:1])

    assert [*sizes, lane.size, len(lane.items)] == [5000, 2000, 5000, 3000, 3]


def test_a_hold_is_full_by_number_or_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was let go of counts no more, and only once."""
    monkeypatch.setattr(cargo_module, "IN_HAND", 5)
    monkeypatch.setattr(cargo_module, "IN_HAND_BYTES", 9000)
    hold, (_, packets) = Hold(), lane_of(3, 3, 9)
    full = []
    for packet in packets[:2]:
        hold.add(packet)
        full.append(hold.full)
    gone = [hold.remove(packets[0]), hold.remove(packets[0])]
    full.append(hold.full)
    monkeypatch.setattr(cargo_module, "IN_HAND", 50)
    hold.add(packets[2])

    assert (full, gone, hold.full) == ([False, True, False], [True, False], True)
