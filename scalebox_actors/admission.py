"""How the runs of a module get their share of the node: what is asked for, and who waits.

A module asks its stream for no more messages than could be run at once; what comes when others
have been quicker goes straight back. Where there is no room for even one it asks for a single
message, to learn whether there is work at all: that one stands in the node's line for a moment and
then goes back as well, for another node to take, while the place in the line is kept for the
module. When its turn comes a message is asked for again.
"""

import asyncio
import contextlib
from collections.abc import Callable
from enum import Enum, auto

from scalebox_actors.limits import RESOURCES_HELD, RESOURCES_REST, RESOURCES_TURN
from scalebox_actors.pool import MANY, Claim, Pool, Share, Ticket, lack
from scalebox_actors.ports import Delivery


class Kept(Enum):
    """What a place in the line is kept for, while no message stands there."""

    RESTING = auto()
    """Other nodes are left alone with the module's messages."""
    SCOUTING = auto()
    """Looking whether there is still one; if not, the place is given up."""
    TURN = auto()
    """There is room: a message is asked for, and not for long."""


class Admission:
    """The part of one module in the node's pool."""

    def __init__(self, pool: Pool, claim: Claim, node: str) -> None:
        self.changed: Callable[[], None] = lambda: None
        """Called whenever `window` may have another answer."""
        self._pool, self._claim, self._node = pool, claim, node
        self._tickets: dict[Delivery, Ticket] = {}
        self._calls: dict[Ticket, asyncio.Future[None]] = {}
        """Who is told when a ticket's turn comes."""
        self._place: Ticket | None = None
        self._kept = Kept.RESTING
        self._timer: asyncio.TimerHandle | None = None
        self._taking, self._receiving = True, False
        if claim:
            pool.watchers.append(self._tell)

    @property
    def lack(self) -> str:
        """Why no run of the module will ever have room on this node; empty if one will."""
        return lack(self._claim, self._pool.for_runs)

    def window(self) -> int:
        """Return how many deliveries may be on their way to us at once.

        What was asked for before is never taken back: a message that the server hands out at that
        moment would be lost until its `ack_wait` has passed.
        """
        if not self._claim:
            return MANY
        if self._place is not None:
            return 0 if self._kept is Kept.RESTING else 1
        return 0 if self._waits else max(1, self._pool.count(self._claim))

    def receive(self, delivery: Delivery, run: str) -> None:
        """Let a delivery have its share, or stand in line unless one of the module's does already.

        `run` is the name of its run.
        """
        if not self._claim:
            return
        self._receiving = True
        ticket = self._pool.take_over((self._node, run)) or self._own_place()
        if ticket is not None or not self._waits:
            self._tickets[delivery] = ticket or self._join()
        self._receiving = False  # whoever has received it asks for what may be asked for now

    async def granted(self, delivery: Delivery, run: str) -> Share | None:
        """Return a delivery's share once it is its turn; None: there is no room, give it back."""
        if not self._claim:
            return Share()
        if delivery not in self._tickets:
            self.receive(delivery, run)
            self.changed()
        ticket = self._tickets.get(delivery)
        if ticket is None:
            return None
        if ticket.share is None and self._taking:
            call = self._calls[ticket] = asyncio.get_running_loop().create_future()
            try:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RESOURCES_HELD):
                        await call
            finally:
                self._calls.pop(ticket, None)
        if ticket.share is None:
            del self._tickets[delivery]
            self._keep(ticket)
        return ticket.share

    def release(self, delivery: Delivery) -> None:
        """Give back what a delivery has, share or place; may be repeated."""
        ticket = self._tickets.pop(delivery, None)
        if ticket is not None:
            self._pool.leave(ticket)

    def leave_behind(self, delivery: Delivery, run: str) -> None:
        """Let go of a delivery whose run may go on."""
        ticket = self._tickets.pop(delivery, None)
        if ticket is not None:
            self._pool.leave_behind(ticket, (self._node, run))

    def withdraw(self) -> None:
        """Keep no place in the line while the module takes nothing; who waits there goes back."""
        self._taking = False
        self._give_up()
        for call in self._calls.values():
            if not call.done():
                call.set_result(None)

    def resume(self) -> None:
        """Take part again."""
        self._taking = True

    def _tell(self) -> None:
        if not self._receiving:
            self.changed()

    @property
    def _waits(self) -> bool:
        """Whether a delivery of the module stands in line."""
        return any(ticket.share is None for ticket in self._tickets.values())

    # --- the place that is kept -----------------------------------------------------------------

    def _join(self) -> Ticket:
        ticket = self._pool.join(self._claim, lambda: self._call(ticket))
        return ticket

    def _call(self, ticket: Ticket) -> None:
        call = self._calls.get(ticket)
        if call is not None and not call.done():
            call.set_result(None)
        elif ticket is self._place:
            self._keep_for(Kept.TURN, RESOURCES_TURN, self._give_up)

    def _own_place(self) -> Ticket | None:
        place, self._place = self._place, None
        self._stop_timer()
        return place

    def _keep(self, ticket: Ticket) -> None:
        """Keep the place of a delivery that goes back; one for each module."""
        if self._place is not None or not self._taking:
            self._pool.leave(ticket)
            return
        self._place = ticket
        self._keep_for(Kept.RESTING, RESOURCES_REST, self._scout)

    def _scout(self) -> None:
        self._keep_for(Kept.SCOUTING, RESOURCES_TURN, self._give_up)

    def _keep_for(self, kept: Kept, seconds: float, then: Callable[[], None]) -> None:
        self._stop_timer()
        self._kept = kept
        self._timer = asyncio.get_running_loop().call_later(seconds, then)
        self.changed()

    def _give_up(self) -> None:
        """No message came for the place: others of the line are let in."""
        place = self._own_place()
        if place is not None:
            self._pool.leave(place)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
