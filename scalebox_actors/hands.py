"""The deliveries that an actor has in hand, and the slots that they take.

A slot is asked for when it falls free and not before: a message that was fetched and lies waiting
would be delivered to somebody else as well. It falls free when the run has ended: storing what came
of it needs no slot, so the next run need not wait for the disk of the broker. Two deliveries of one
task are worked on one after the other, so that a task never has two runs on a host.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator

from scalebox_actors.ports import Delivery, Intake

SETTLING = 64
"""So many deliveries, or as many as there are slots, may be settled beside those that run."""
SETTLE_SECONDS = 5.0
"""What has ended may take so long to be committed when the node stops."""

Work = Callable[[Delivery], Coroutine[None, None, None]]


class Hands:
    """Works on as many deliveries at once as there are slots."""

    def __init__(self, slots: int, work: Work) -> None:
        self.slots = slots
        self._work = work
        self._most_settling = max(slots, SETTLING)
        self._intake: Intake | None = None
        self._all: set[asyncio.Task[None]] = set()
        self._latest: dict[str, asyncio.Task[None]] = {}
        self._vacated: set[asyncio.Task[None]] = set()
        self._beside: set[asyncio.Task[None]] = set()
        """Those that share the slot of another one."""
        self._too_many = 0
        """So many slots are taken, or asked for, that there are no more."""
        self._closed = False
        self._suspended = False

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[asyncio.Task[None]]:
        return iter(tuple(self._all))

    def open(self, intake: Intake) -> None:
        """Begin to ask an intake for deliveries."""
        self._intake = intake
        self._ask(self.slots)

    def has(self, delivery: Delivery) -> bool:
        """Whether an earlier delivery of the same task is in hand."""
        return delivery.message_id in self._latest

    def take(self, delivery: Delivery, *, beside: bool = False) -> "asyncio.Task[None]":
        """Work on a delivery; after an earlier one of the same task, if that is still in hand.

        `beside`: in the slot that another delivery holds for it.
        """
        key = delivery.message_id
        hand = asyncio.create_task(self._after(self._latest.get(key), delivery))
        self._all.add(hand)
        self._latest[key] = hand
        hand.add_done_callback(lambda done: self._put_down(key, done))
        if beside:
            self._beside.add(hand)
        return hand

    def vacate(self, hand: "asyncio.Task[None] | None") -> None:
        """Let the slot of some work be taken: nothing runs for it any more."""
        if hand not in self._all or hand in self._vacated or hand in self._beside:
            return
        if len(self._vacated) < self._most_settling:
            self._vacated.add(hand)
            self._ask(1)

    def close(self) -> None:
        """Ask for nothing more, for good; what is in hand goes on."""
        self._closed = True
        if self._intake is not None:
            self._intake.hold()

    def suspend(self) -> None:
        """Ask for nothing more until `resume`; what is in hand goes on."""
        self._suspended = True
        if self._intake is not None:
            self._intake.hold()

    def resume(self) -> None:
        """Ask for as many deliveries as there are free slots."""
        self._suspended = False
        busy = len(self._all) - len(self._vacated) - len(self._beside)
        self._too_many = max(0, busy - self.slots)
        self._ask(max(0, self.slots - busy))

    def resize(self, slots: int) -> None:
        """Work on so many deliveries at once from now on; too many are not taken back."""
        more = slots - self.slots - self._too_many
        self.slots = slots
        self._most_settling = max(slots, SETTLING)
        self._too_many = max(0, -more)
        if more > 0 and self._intake is not None:
            self._ask(more)

    async def empty(self) -> None:
        """Wait until nothing is in hand."""
        while self._all:
            await asyncio.wait(self._all)

    async def abandon(self, settling: Callable[[str], bool]) -> None:
        """Let go of everything; only what is `settling` by its id may come to its end first."""
        for key, hand in self._latest.items():
            if not settling(key):
                hand.cancel()
        chained = self._all - set(self._latest.values())
        late = {hand for hand in self._all if hand not in chained}
        if late:
            _, late = await asyncio.wait(late, timeout=SETTLE_SECONDS)
        rest = late | chained
        for hand in rest:
            hand.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def _after(self, earlier: "asyncio.Task[None] | None", delivery: Delivery) -> None:
        try:
            if earlier is not None:
                await asyncio.wait([earlier])
            await self._work(delivery)
        finally:
            # Whatever happened, a cancellation too: nobody works on it any more, so nobody may
            # say so. After `done` this does nothing.
            delivery.let_go()

    def _put_down(self, key: str, hand: "asyncio.Task[None]") -> None:
        self._all.discard(hand)
        if self._latest.get(key) is hand:
            del self._latest[key]
        if hand in self._beside:
            self._beside.discard(hand)
        elif hand in self._vacated:
            self._vacated.discard(hand)
        else:
            self._ask(1)

    def _ask(self, count: int) -> None:
        given_up = min(count, self._too_many)
        self._too_many -= given_up
        count -= given_up
        if count and self._intake is not None and not (self._closed or self._suspended):
            self._intake.grant(count)
