"""Hands ask for as many deliveries as there are slots, also while the number of slots changes."""

import asyncio

import pytest

from scalebox_actors.admission import Admission
from scalebox_actors.hands import Hands
from scalebox_actors.limits import SETTLING_BYTES
from scalebox_actors.names import Names
from scalebox_actors.pool import Claim, Pool, Room
from scalebox_actors.ports import Delivery, Intake
from scalebox_actors.testing.hands import MemoryIntake
from scalebox_actors.testing.memory import MemoryBroker

NAMES = Names("t")


class Stand:
    """Hands whose work ends when it is told to."""

    def __init__(self, slots: int, messages: int, body: bytes = b"x") -> None:
        self.broker = MemoryBroker(NAMES, ["a"])
        for number in range(messages):
            self.broker.send("a", body, {"Nats-Msg-Id": f"m{number}"})
        admission = Admission(Pool(Room()), Claim(), "n")
        self.hands = Hands(slots, self._work, admission, str)
        self.working = 0
        self.go = asyncio.Semaphore(0)

    async def _work(self, delivery: Delivery) -> None:
        self.working += 1
        self.hands.weigh(len(delivery.raw.body))
        await self.go.acquire()
        self.working -= 1
        await delivery.done()

    async def settled(self, intake: Intake) -> int:
        """Take what comes until nothing more does, and return how many are worked on."""
        assert isinstance(intake, MemoryIntake)
        for _ in range(20):
            while intake._queue:
                self.hands.take(await anext(intake))
            await asyncio.sleep(0)
        return self.working


async def test_more_slots_are_asked_for_at_once() -> None:
    """A launcher with more room than slots gets as much to do as it has room for."""
    stand = Stand(1, messages=10)
    async with stand.broker.intake("a") as intake:
        stand.hands.open(intake)
        before = await stand.settled(intake)
        stand.hands.resize(4)

        assert (before, await stand.settled(intake)) == (1, 4)


async def test_fewer_slots_are_left_to_fall_free() -> None:
    """What is in hand goes on; only then are so many asked for as there are slots now."""
    stand = Stand(4, messages=20)
    async with stand.broker.intake("a") as intake:
        stand.hands.open(intake)
        seen = [await stand.settled(intake)]
        stand.hands.resize(2)
        for _ in range(4):
            stand.go.release()
            seen.append(await stand.settled(intake))

        assert seen == [4, 3, 2, 2, 2]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [((4, 1, 4), 4), ((4, 1, 2), 2), ((1, 3, 1, 5), 5), ((2, 2), 2), ((3, 1), 1)],
)
async def test_slots_that_come_and_go(sizes: tuple[int, ...], expected: int) -> None:
    """However often the number changed, in the end it is the last one that holds."""
    first, *others = sizes
    stand = Stand(first, messages=60)
    async with stand.broker.intake("a") as intake:
        stand.hands.open(intake)
        for size in others:
            await stand.settled(intake)
            stand.hands.resize(size)
        for _ in range(10):
            stand.go.release()
            working = await stand.settled(intake)

        assert working == expected


async def test_slots_that_go_while_suspended() -> None:
    """Resumed with more in hand than there are slots now, hands ask again when there is room."""
    stand = Stand(3, messages=20)
    async with stand.broker.intake("a") as intake:
        stand.hands.open(intake)
        seen = [await stand.settled(intake)]
        stand.hands.suspend()
        stand.hands.resize(1)
        stand.hands.resume()
        for _ in range(4):
            stand.go.release()
            seen.append(await stand.settled(intake))

        assert seen == [3, 2, 1, 1, 1]


async def test_slots_that_come_while_suspended() -> None:
    """Suspended hands ask for nothing, and for all there is room for when they resume."""
    stand = Stand(1, messages=10)
    async with stand.broker.intake("a") as intake:
        stand.hands.open(intake)
        await stand.settled(intake)
        stand.hands.suspend()
        stand.hands.resize(3)
        held = await stand.settled(intake)
        stand.hands.resume()

        assert (held, await stand.settled(intake)) == (1, 3)


async def test_what_is_settled_frees_its_slot_only_while_its_bodies_fit_into_memory() -> None:
    """Large messages are not heaped up, however quickly their runs end."""
    stand = Stand(1, messages=10, body=bytes(SETTLING_BYTES // 2))
    async with stand.broker.intake("a") as intake:
        stand.hands.open(intake)
        for _ in range(5):
            await stand.settled(intake)
            for hand in stand.hands:
                stand.hands.vacate(hand)
        full = await stand.settled(intake)
        stand.go.release()

        assert full == 3  # two whose bodies fill it, and the one in the slot
        assert await stand.settled(intake) == 2
        assert stand.hands._weight == SETTLING_BYTES
