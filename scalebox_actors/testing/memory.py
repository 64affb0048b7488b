"""`MemoryBroker`: the broker's port in memory, with its own clock and no real time.

It keeps the promises of `tests/contract/test_broker*.py`, as JetStream does, so that a test of the
engine may trust it. Everything is decided in the order of calls: the same scenario gives the same
result.
"""

import asyncio
from collections.abc import Mapping, Sequence

from scalebox_actors.crossing import Passage, Passed
from scalebox_actors.errors import Unavailable
from scalebox_actors.limits import (
    ACK_WAIT,
    HEADER_BLOCK_BYTES,
    MIB,
)
from scalebox_actors.message import MSG_ID
from scalebox_actors.names import Names, bound_for
from scalebox_actors.ports import (
    Answer,
    Backlog,
    Entry,
    Intake,
    Refusal,
    Refused,
    Stored,
)
from scalebox_actors.testing.hands import MemoryDelivery, MemoryIntake
from scalebox_actors.testing.shelf import NEVER, Shelf, matches
from scalebox_actors.testing.tape import Tape


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
        self.far: dict[str, MemoryBroker] = {}
        """The sites that there is a link to."""

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
        """Return the deliveries of `module`."""
        return MemoryIntake(self, module, self.names.task(module))

    def intake_to(self, site: str) -> Intake:
        """Return what waits here to be carried to another site."""
        return MemoryIntake(self, f"to {site}", self.names.out(site, ">"))

    async def forward(self, entries: Sequence[Entry], *, seconds: float) -> Sequence[Passage]:
        """Store entries at another site; a call that goes wrong on the tape gets no answer."""
        del seconds
        silent = [Passage(Passed.SILENT, "the tape lets no answer come")] * len(entries)
        try:
            number = await self.tape.before("broker.forward")
        except Unavailable:
            return silent
        passages = []
        for entry in entries:
            there = self.far.get(entry.subject.split(".")[2])
            absent = Passage(Passed.ABSENT, "no link")
            passages.append(there.take_in(entry) if there is not None else absent)
        try:
            await self.tape.after(number)
        except Unavailable:
            return silent
        return passages

    async def write(self, entries: Sequence[Entry], *, soon: bool = True) -> Refusal | None:  # noqa: ARG002
        """Store all entries or none, in their order; always at once."""
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
        new, in_hand = self._count(self.names.task(module))
        until = self._paused.get(module, 0.0)
        await self.tape.after(number)
        return Backlog(new, in_hand, until if until > self.now else 0.0)

    async def waiting_to(self, site: str) -> int:
        """Return how many messages are here to be carried to another site."""
        number = await self.tape.before("broker.waiting_to")
        found = sum(bound_for(m.subject).count for m in self.messages(self.names.out(site, ">")))
        await self.tape.after(number)
        return found

    async def state_keys(self, prefix: str) -> Sequence[str]:
        """Return the keys that begin with `prefix` and a dot."""
        number = await self.tape.before("broker.state_keys")
        alive = (key for key, (_, expires) in self._values.items() if expires > self.now)
        keys = [key for key in alive if key.startswith(f"{prefix}.")]
        await self.tape.after(number)
        return keys

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

    def join(self, other: "MemoryBroker") -> None:
        """Lay a link to another site, for both directions; its absence is a link that is cut."""
        self.far[other.names.site], other.far[self.names.site] = other, self

    def part(self, other: "MemoryBroker") -> None:
        """Cut the link to another site."""
        del self.far[other.names.site], other.far[self.names.site]

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

    def take_in(self, entry: Entry) -> Passage:
        """Take an entry that another site hands over."""
        if not self._room.is_set():
            return Passage(Passed.FULL, "the stream is full")
        refusal = self.shelf.refusal([entry])
        if refusal is None:
            self.shelf.store(entry.subject, entry.body, entry.headers)
            self.hand_out()
        elif refusal.kind is Refused.UNACCEPTABLE:
            return Passage(Passed.ABSENT, refusal.text)
        return Passage(Passed.ARRIVED)

    # --- for deliveries and intakes -------------------------------------------------------------

    def hand_out(self) -> None:
        """Give waiting messages to whoever asked for some, oldest first."""
        for intake in self.intakes:
            for delivery in self.hand_over(intake, intake.granted):
                intake.take(delivery)

    def hand_over(self, intake: MemoryIntake, most: int) -> list[MemoryDelivery]:
        """Take up to so many messages that wait now out of the stream, oldest first."""
        handed: list[MemoryDelivery] = []
        if self._paused.get(intake.module, 0.0) > self.now:
            return handed
        for held in self.shelf.alive():
            if len(handed) >= most:
                break
            fits = matches(intake.pattern, held.stored.subject)
            if fits and held.ready_at <= self.now:
                held.deliveries += 1
                held.ready_at = NEVER
                held.owner = MemoryDelivery(self, held)
                handed.append(held.owner)
        return handed

    def release(self, delivery: MemoryDelivery, delay: float) -> None:
        """Let a message be handed out again after `delay`, if `delivery` is the one that has it."""
        held = self.shelf.held.get(delivery.sequence)
        if held is not None and held.owner is delivery:
            held.owner = None
            held.ready_at = self.now + delay
            self.hand_out()

    def _count(self, pattern: str) -> tuple[int, int]:
        """Return how many matching messages wait, and how many were handed out."""
        held = [h for h in self.shelf.alive() if matches(pattern, h.stored.subject)]
        new = sum(h.deliveries == 0 for h in held)
        return new, len(held) - new

    def remove(self, sequence: int) -> None:
        """Take a message out of the stream; nothing happens if it is not there."""
        self.shelf.held.pop(sequence, None)
