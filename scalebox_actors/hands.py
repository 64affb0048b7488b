"""The deliveries that an actor has in hand, and the slots that they take.

A slot is asked for when it falls free and not before: a message that was fetched and lies waiting
would be delivered to somebody else as well. It falls free when the run has ended: storing what came
of it needs no slot, so the next run need not wait for the disk of the broker. A launcher may ask
for more work than there are slots if it sees to it that no more runs at once (launch/lead.py). Two
deliveries of one task are worked on one after the other: a task never has two runs on a host.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator

from scalebox_actors.admission import Admission
from scalebox_actors.limits import SETTLING, SETTLING_BYTES
from scalebox_actors.pool import Share
from scalebox_actors.ports import Delivery, Intake

SETTLE_SECONDS = 5.0
"""What has ended may take so long to be committed when the node stops."""

Work = Callable[[Delivery], Coroutine[None, None, None]]


class Hands:
    """Works on as many deliveries at once as there are slots, and room on the node."""

    def __init__(
        self, slots: int, work: Work, admission: Admission, run_of: Callable[[str], str]
    ) -> None:
        self.slots = slots
        self._work, self._admission, self._run_of = work, admission, run_of
        admission.changed = self.fit
        self._most_settling = max(slots, SETTLING)
        self._intake: Intake | None = None
        self._asked = 0
        """Deliveries that were asked for and have not come."""
        self._all: dict[asyncio.Task[None], Delivery] = {}
        self._latest: dict[str, asyncio.Task[None]] = {}
        self._vacated: set[asyncio.Task[None]] = set()
        self._weights: dict[asyncio.Task[None], int] = {}
        """Bytes that those hold whose runs have ended, until they are settled."""
        self._weight = 0
        self._beside: set[asyncio.Task[None]] = set()
        """Those that share the slot of another one."""
        self.closed = False
        """Whether nothing more is asked for, for good."""
        self._suspended = False

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[asyncio.Task[None]]:
        return iter(tuple(self._all))

    def open(self, intake: Intake) -> None:
        """Begin to ask an intake for deliveries."""
        self._intake = intake
        self.fit()

    def has(self, delivery: Delivery) -> bool:
        """Whether an earlier delivery of the same task is in hand."""
        return delivery.message_id in self._latest

    def take(self, delivery: Delivery, *, beside: bool = False) -> "asyncio.Task[None]":
        """Work on a delivery; after an earlier one of the same task, if that is still in hand.

        `beside`: in the slot that another delivery holds for it.
        """
        key = delivery.message_id
        earlier = self._latest.get(key)
        hand = asyncio.create_task(self._after(earlier, delivery))
        self._asked = self._asked if beside else max(0, self._asked - 1)
        self._all[hand] = delivery
        self._latest[key] = hand
        hand.add_done_callback(lambda done: self._put_down(key, done))
        if beside:
            self._beside.add(hand)
        elif earlier is None:  # a twin needs nothing before the first has ended
            self._admission.receive(delivery, self._run_of(key))
        self.fit()
        return hand

    async def share(self, delivery: Delivery) -> Share | None:
        """Return what the run of a delivery may use, or None if it has to go back."""
        return await self._admission.granted(delivery, self._run_of(delivery.message_id))

    def leave_behind(self, delivery: Delivery) -> None:
        """Let go of a delivery whose run may go on: what that uses stays taken."""
        self._admission.leave_behind(delivery, self._run_of(delivery.message_id))

    def vacate(self, hand: "asyncio.Task[None] | None") -> None:
        """Let slot and share of some work be taken: nothing runs for it any more."""
        if hand is None or hand not in self._all or hand in self._beside:
            return
        self._admission.release(self._all[hand])
        full = len(self._vacated) >= self._most_settling or self._weight > SETTLING_BYTES
        if hand not in self._vacated and not full:
            self._vacated.add(hand)
            self.fit()

    def weigh(self, size: int) -> None:
        """Note that the work that calls this holds so many bytes until its end."""
        hand = asyncio.current_task()
        if hand in self._all:
            self._weight += size - self._weights.get(hand, 0)
            self._weights[hand] = size

    def close(self) -> None:
        """Ask for nothing more, for good; what is in hand goes on."""
        self.closed = True
        self._hold()

    def suspend(self) -> None:
        """Ask for nothing more until `resume`; what is in hand goes on."""
        self._suspended = True
        self._hold()

    def resume(self) -> None:
        """Ask for as many deliveries as there are free slots."""
        self._suspended = False
        self._admission.resume()
        self.fit()

    def fit(self) -> None:
        """Ask for as many deliveries as may be in hand besides those that are.

        Called whenever something falls free, here or on the node.
        """
        if self._intake is None or self.closed or self._suspended:
            return
        busy = len(self._all) - len(self._vacated) - len(self._beside)
        more = min(self.slots - busy, self._admission.window()) - self._asked
        if more > 0:
            self._asked += more
            self._intake.grant(more)

    def resize(self, slots: int) -> None:
        """Work on so many deliveries at once from now on; too many are not taken back."""
        self.slots = slots
        self._most_settling = max(slots, SETTLING)
        self.fit()

    async def empty(self) -> None:
        """Wait until nothing is in hand."""
        while self._all:
            await asyncio.wait(self._all)

    async def abandon(self, settling: Callable[[str], bool]) -> None:
        """Let go of everything; only what is `settling` by its id may come to its end first."""
        for key, hand in self._latest.items():
            if not settling(key):
                hand.cancel()
        chained = set(self._all) - set(self._latest.values())
        late = {hand for hand in self._all if hand not in chained}
        if late:
            _, late = await asyncio.wait(late, timeout=SETTLE_SECONDS)
        rest = late | chained
        for hand in rest:
            hand.cancel()
        if rest:  # a function may not care
            await asyncio.wait(rest, timeout=SETTLE_SECONDS)

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
        delivery = self._all.pop(hand)
        if self._latest.get(key) is hand:
            del self._latest[key]
        self._weight -= self._weights.pop(hand, 0)
        self._vacated.discard(hand)
        self._beside.discard(hand)
        self._admission.release(delivery)
        self.fit()

    def _hold(self) -> None:
        self._asked = 0
        self._admission.withdraw()
        if self._intake is not None:
            self._intake.hold()
