"""`MemoryBroker`: the broker's port in memory, with its own clock and no real time.

It keeps the promises of `tests/contract/test_broker.py`, as JetStream does, so that a test of the
engine may trust it. Everything is decided in the order of calls: the same scenario gives the same
result.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Self

from scalebox_actors.limits import (
    ACK_WAIT,
    HEADER_BLOCK_BYTES,
    MIB,
)
from scalebox_actors.message import MSG_ID, Raw, identify
from scalebox_actors.names import Names
from scalebox_actors.ports import (
    Answer,
    Backlog,
    Delivery,
    Entry,
    Intake,
    Refusal,
    Stored,
)
from scalebox_actors.testing.shelf import NEVER, Held, Shelf
from scalebox_actors.testing.tape import Tape

_CREATED = "2026-01-01T00:00:00Z"


class MemoryDelivery:
    """A message in our hands; see the port."""

    def __init__(self, broker: "MemoryBroker", held: Held) -> None:
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
    """Deliveries of one module; see the port."""

    def __init__(self, broker: "MemoryBroker", module: str) -> None:
        self.module = module
        self.granted = 0
        self._broker = broker
        self._queue: deque[MemoryDelivery] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._over = False

    def grant(self, slots: int) -> None:
        """Let `slots` more deliveries come."""
        self.granted += slots
        self._broker.hand_out()

    def hold(self) -> None:
        """Ask for nothing more until `grant` is called again; unanswered grants are forgotten."""
        self.granted = 0
        while self._queue:
            self._broker.release(self._queue.popleft(), 0.0)

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


class MemoryBroker:
    """The stream of one topology at one site, in memory; see the port."""

    def __init__(
        self,
        names: Names,
        modules: Sequence[str],
        *,
        tape: Tape | None = None,
        ack_wait: float = ACK_WAIT,
        max_payload: int = MIB,
    ) -> None:
        self.names = names
        self.tape = tape or Tape()
        self.ack_wait = ack_wait
        self.shelf = Shelf(names, modules, max_payload)
        self.intakes: list[MemoryIntake] = []
        self.traced: list[tuple[str, bytes]] = []
        self._max_payload = max_payload
        self._values: dict[str, tuple[bytes, float]] = {}
        self._paused: dict[str, float] = {}
        self._answers: dict[str, list[Answer]] = {}
        self._room = asyncio.Event()
        self._room.set()

    @property
    def now(self) -> float:
        """The broker's time; moved by `advance` and by nothing else."""
        return self.shelf.now

    @property
    def body_limit(self) -> int:
        """The largest body."""
        return self._max_payload - HEADER_BLOCK_BYTES

    # --- the port -------------------------------------------------------------------------------

    def intake(self, module: str) -> Intake:
        """Return the deliveries of `module`; use as an async context manager."""
        return MemoryIntake(self, module)

    async def write(self, entries: Sequence[Entry]) -> Refusal | None:
        """Store all entries or none, in their order."""
        number = await self.tape.before("broker.write")
        await self._room.wait()
        refusal = self.shelf.refusal(entries)
        if refusal is None:
            for entry in entries:
                self.shelf.store(entry.subject, entry.body, entry.headers)
            self.hand_out()
        await self.tape.after(number)
        return refusal

    async def read(self, subject: str) -> Stored | None:
        """Return the last message on `subject`."""
        number = await self.tape.before("broker.read")
        found = self.shelf.last(subject)
        await self.tape.after(number)
        return found

    async def read_all(self, pattern: str, *, start: int = 1, most: int = 10_000) -> list[Stored]:
        """Return messages on subjects that match `pattern`, oldest first, from a sequence on."""
        number = await self.tape.before("broker.read_all")
        found = [s for s in self.messages(pattern) if s.sequence >= start][:most]
        await self.tape.after(number)
        return found

    async def purge(self, pattern: str, *, keep: int = 0) -> None:
        """Remove the messages on matching subjects but the `keep` newest of each subject."""
        number = await self.tape.before("broker.purge")
        by_subject: dict[str, list[int]] = {}
        for stored in self.messages(pattern):
            by_subject.setdefault(stored.subject, []).append(stored.sequence)
        for sequences in by_subject.values():
            for sequence in sequences[: len(sequences) - keep]:
                self.remove(sequence)
        await self.tape.after(number)

    async def get_state(self, key: str) -> bytes | None:
        """Return the value of a key."""
        number = await self.tape.before("broker.get_state")
        value, expires = self._values.get(key, (b"", 0.0))
        await self.tape.after(number)
        return value if expires > self.now else None

    async def put_state(self, key: str, value: bytes, *, life: float = 0.0) -> None:
        """Set a key; it is forgotten after `life` seconds unless 0."""
        number = await self.tape.before("broker.put_state")
        self._values[key] = value, self.now + life if life else NEVER
        await self.tape.after(number)

    async def backlog(self, module: str) -> Backlog:
        """Return how much waits for `module`: new messages, and all that were handed out."""
        number = await self.tape.before("broker.backlog")
        tasks = [
            held for held in self.shelf.alive() if held.stored.subject == self.names.task(module)
        ]
        waiting = sum(held.deliveries == 0 for held in tasks)
        until = self._paused.get(module, 0.0)
        await self.tape.after(number)
        return Backlog(waiting, len(tasks) - waiting, until if until > self.now else 0.0)

    async def trace(self, node: str, lines: bytes) -> None:
        """Write run records."""
        number = await self.tape.before("broker.trace")
        self.traced.append((node, lines))
        await self.tape.after(number)

    async def duplicates(self, entries: Sequence[Entry]) -> set[int]:
        """Return the places of entries whose ids are remembered, or repeat an earlier one's."""
        number = await self.tape.before("broker.duplicates")
        seen = self.shelf.remembered()
        there: set[int] = set()
        for place, entry in enumerate(entries):
            given = entry.headers.get(MSG_ID)
            if given in seen:
                there.add(place)
            elif given is not None:
                seen.add(given)
        await self.tape.after(number)
        return there

    async def clock(self) -> float:
        """Return the broker's time."""
        number = await self.tape.before("broker.clock")
        await self.tape.after(number)
        return self.now

    async def serve(self, verb: str, answer: Answer) -> None:
        """Answer requests on `ctl.<verb>`."""
        self._answers.setdefault(verb, []).append(answer)

    async def ask(self, verb: str, question: bytes, *, wait: float = 1.0) -> list[bytes]:
        """Ask everybody who serves `verb`; `wait` means nothing here."""
        del wait
        return [await answer(question) for answer in self._answers.get(verb, [])]

    # --- for tests ------------------------------------------------------------------------------

    def send(
        self,
        module: str,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        fault: str = "",
    ) -> int:
        """Store a task as any client could, with a fault in its headers if wanted."""
        sequence = self.shelf.store(self.names.task(module), body, headers or {}, fault)
        self.hand_out()
        return sequence

    def messages(self, pattern: str = ">") -> list[Stored]:
        """Return what is stored, without a call on the tape."""
        return self.shelf.messages(pattern)

    def advance(self, seconds: float) -> None:
        """Let time pass: lives end, and what was let go long enough ago is delivered again."""
        self.shelf.now += seconds
        self.hand_out()

    def redeliver(self) -> None:
        """Hand out at once whatever was let go or given back."""
        for held in self.shelf.held.values():
            if held.owner is None:
                held.ready_at = min(held.ready_at, self.now)
        self.hand_out()

    def crash(self) -> None:
        """End every intake as if its node had died; what was in hand is let go."""
        dead, self.intakes = self.intakes, []
        self._answers.clear()
        for intake in dead:
            intake.end()
        for held in self.shelf.held.values():
            if isinstance(held.owner, MemoryDelivery):
                self.release(held.owner, self.ack_wait)

    def pause(self, module: str, seconds: float) -> None:
        """Hand out nothing of a module for a while."""
        self._paused[module] = self.now + seconds

    def fill(self) -> None:
        """Let the stream be full: writes wait until `make_room`."""
        self._room.clear()

    def make_room(self) -> None:
        """Let writes go on."""
        self._room.set()

    def forget_ids(self) -> None:
        """Forget all ids, as a work queue does with acked messages at a restart."""
        self.shelf.ids.clear()

    # --- for deliveries and intakes -------------------------------------------------------------

    def hand_out(self) -> None:
        """Give waiting messages to whoever asked for some, oldest first."""
        for intake in self.intakes:
            if self._paused.get(intake.module, 0.0) > self.now:
                continue
            subject = self.names.task(intake.module)
            for held in self.shelf.alive():
                if intake.granted <= 0:
                    break
                if held.stored.subject == subject and held.ready_at <= self.now:
                    held.deliveries += 1
                    held.ready_at = NEVER
                    delivery = held.owner = MemoryDelivery(self, held)
                    intake.take(delivery)

    def release(self, delivery: MemoryDelivery, delay: float) -> None:
        """Let a message be handed out again after `delay`, if `delivery` is the one that has it."""
        held = self.shelf.held.get(delivery.sequence)
        if held is not None and held.owner is delivery:
            held.owner = None
            held.ready_at = self.now + delay
            self.hand_out()

    def remove(self, sequence: int) -> None:
        """Take a message out of the stream; nothing happens if it is not there."""
        self.shelf.held.pop(sequence, None)
