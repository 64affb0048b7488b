"""What a `MemoryBroker` hands out: deliveries, and the intakes through which they are asked for."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Protocol, Self

from scalebox_actors.message import Raw, identify
from scalebox_actors.ports import Delivery
from scalebox_actors.testing.shelf import Held
from scalebox_actors.testing.tape import Tape

_CREATED = "2026-01-01T00:00:00Z"


class Hands(Protocol):
    """What deliveries and intakes need of their broker."""

    tape: Tape
    ack_wait: float
    intakes: "list[MemoryIntake]"

    def hand_out(self) -> None:
        """Give waiting messages to whoever asked for some."""

    def hand_over(self, intake: "MemoryIntake", most: int) -> "list[MemoryDelivery]":
        """Give an intake what waits now."""

    def release(self, delivery: "MemoryDelivery", delay: float) -> None:
        """Let a message be handed out again."""

    def remove(self, sequence: int) -> None:
        """Take a message out of the stream."""


class MemoryDelivery:
    """A message in our hands; see the port."""

    def __init__(self, broker: Hands, held: Held) -> None:
        stored = held.stored
        self._broker = broker
        self.sequence = stored.sequence
        self.redelivered = held.deliveries > 1
        self.stored = stored.time
        self.raw = Raw(
            subject=stored.subject, body=stored.body, headers=stored.headers, fault=held.fault
        )
        self.message_id = identify(self.raw, _CREATED, stored.sequence)

    async def done(self) -> None:
        """Take the message out of the stream; an older delivery of it may do that too."""
        number = await self._broker.tape.before("delivery.done")
        self._broker.remove(self.sequence)
        await self._broker.tape.after(number)

    async def give_back(self, delay: float) -> None:
        """Let it be delivered again after `delay`."""
        number = await self._broker.tape.before("delivery.give_back")
        self._broker.release(self, delay)
        await self._broker.tape.after(number)

    def let_go(self) -> None:
        """Say nothing more about it: it is delivered again when its `ack_wait` has passed."""
        self._broker.release(self, self._broker.ack_wait)


class MemoryIntake:
    """Deliveries on matching subjects; see the port."""

    def __init__(self, broker: Hands, module: str, pattern: str) -> None:
        self.module = module
        self.pattern = pattern
        self.granted = 0
        self._broker = broker
        self._queue: deque[MemoryDelivery] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._over = False

    def grant(self, slots: int) -> None:
        """Let `slots` more deliveries come."""
        self.granted += slots
        self._broker.hand_out()

    def foretell(self, tell: Callable[[Delivery], None]) -> None:
        """Say nothing: none comes before it is handed out."""

    def hold(self) -> None:
        """Ask for nothing more until `grant` is called again; unanswered grants are forgotten."""
        self.granted = 0
        while self._queue:
            self._broker.release(self._queue.popleft(), 0.0)

    async def more(self, most: int) -> list[Delivery]:
        """Return up to `most` further deliveries that wait now."""
        number = await self._broker.tape.before("intake.more")
        taken: list[Delivery] = [*self._broker.hand_over(self, most)]
        await self._broker.tape.after(number)
        return taken

    def take(self, delivery: MemoryDelivery) -> None:
        """Receive a delivery that was asked for."""
        self.granted -= 1
        self._queue.append(delivery)
        self._wake()

    def end(self) -> None:
        """Deliver nothing more."""
        self._over = True
        self._wake()

    async def __aenter__(self) -> Self:
        self._broker.intakes.append(self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self in self._broker.intakes:
            self._broker.intakes.remove(self)
            self.hold()
        self.end()

    def __aiter__(self) -> AsyncIterator[Delivery]:
        return self

    async def __anext__(self) -> Delivery:
        while not self._queue:
            if self._over:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        delivery = self._queue.popleft()
        number = await self._broker.tape.before("intake.pull")
        await self._broker.tape.after(number)
        return delivery

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
