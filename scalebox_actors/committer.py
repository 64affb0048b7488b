"""Group commit: what finishes while a batch is in flight goes out together in the next.

One committer serves all modules of a topology on a node, with one batch in flight. A batch costs
the broker the same whatever its size, so the group is what makes exactly-once effects cheap. So
batches do not follow each other more quickly than `PACE`: on a quick disk every task would get one
of its own, and the broker would do little else. While many tasks end a group grows for longer, for
its batch would wait behind the acks of the one before in any case. A few tasks that have no outputs
need no batch at all: each is one message, and that is stored whole or not.

A broker refuses a batch whole and does not say which member is to blame. The committer then
splits the group until the culprit stands alone with its own answer; the others are stored.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence

import msgspec

from scalebox_actors import gather
from scalebox_actors.effects import Effects
from scalebox_actors.errors import BadMessage, Transient
from scalebox_actors.limits import BATCH_BYTES, BATCH_MESSAGES
from scalebox_actors.parcel import pack
from scalebox_actors.ports import Broker, Entry, Refusal, Refused, Stored
from scalebox_actors.records import Settled, Settlement

PACE = 0.01
"""Seconds from the start of a batch to the next: of 3 to 4 ms of the broker's CPU each."""
MANY = 16
"""So many keep a broker busy with batches and acks; such a group may grow for longer."""
LONG_PACE = 0.04
QUIET = 0.003
"""Seconds without a further one after which it goes: whoever is in flight may wait for it."""
ENOUGH = 256
"""So many waiting make a group that need not grow."""

FEW = 8
"""Up to so many messages cost the broker less one by one than in a batch."""

_COMMITTED = Settlement(Settled.COMMITTED)
_ALREADY = Settlement(Settled.ALREADY)
_LATE = Settlement(Settled.LATE, "its group was already let go")


class _Pending(msgspec.Struct, eq=False):
    """Effects on their way, and who waits for the answer."""

    effects: Effects
    answer: "asyncio.Future[Settlement]"


class Committer:
    """Stores the effects of finished tasks, in groups; see `commit`."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._waiting: deque[_Pending] = deque()
        self._wake = asyncio.Event()
        self._enough = asyncio.Event()
        self._begun = -LONG_PACE
        """When the newest batch was sent, or one that was refused is to be tried again."""
        self._newest = 0.0
        """When the last one came."""
        self._failure: BaseException | None = None

    async def commit(self, effects: Effects) -> Settlement:
        """Store `effects` with whatever else is finished now, and say what became of them.

        Killed before the answer, the task is delivered again and finds its done-record, or is
        run again; either way its effects are stored once.
        """
        if self._failure is not None:
            raise self._failure
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Settlement] = loop.create_future()
        self._waiting.append(_Pending(effects, answer))
        self._newest = loop.time()
        self._wake.set()
        if len(self._waiting) >= ENOUGH:
            self._enough.set()
        return await answer

    async def bury(self, letter: Effects) -> bool:
        """Store a dead letter; False: the task had ended before, and the letter was not stored.

        Raises Transient if the broker refuses it: a message is never dropped without its letter.
        """
        settlement = await self.commit(letter)
        if settlement.kind is Settled.UNACCEPTABLE:
            raise Transient(f"cannot be buried: {settlement.text}")
        return settlement.kind is Settled.COMMITTED

    async def run(self) -> None:
        """Store group after group until cancelled; a broker's error ends it and all who wait."""
        group: list[_Pending] = []
        try:
            while True:
                await self._wake.wait()
                await self._keep_pace()
                group = self._take()
                if not group:
                    self._wake.clear()
                    continue
                if _are_single(group):
                    await asyncio.gather(*map(self._settle_single, group))
                else:
                    self._begun = asyncio.get_running_loop().time()
                    await self._settle(group)
        except BaseException as error:
            self._failure = error
            for pending in (*group, *self._waiting):
                if not pending.answer.done():
                    _fail(pending.answer, error)
            raise

    async def _keep_pace(self) -> None:
        """Let the group grow while the batch before it is young; for longer while many come."""
        time, began = asyncio.get_running_loop().time, self._begun
        await self._grow(began + PACE)
        while MANY <= len(self._waiting) < ENOUGH and time() < (
            until := min(self._newest + QUIET, began + LONG_PACE)
        ):
            await self._grow(until)

    async def _grow(self, until: float) -> None:
        if len(self._waiting) < ENOUGH and asyncio.get_running_loop().time() < until:
            self._enough.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self._enough.wait()

    def _take(self) -> list[_Pending]:
        """Take the next group: bounded in messages and bytes, no record twice."""
        group: list[_Pending] = []
        records: set[str] = set()
        twins: list[_Pending] = []
        messages = size = 0
        while self._waiting:
            pending = self._waiting[0]
            effects = pending.effects
            messages += effects.messages
            size += effects.size
            if group and (messages > BATCH_MESSAGES or size > BATCH_BYTES):
                break
            self._waiting.popleft()
            if pending.answer.cancelled():
                continue
            subjects = {record.subject for record in effects.records}
            if not records.isdisjoint(subjects):
                twins.append(pending)  # two results for one record never share a batch
                continue
            records |= subjects
            group.append(pending)
        self._waiting.extendleft(reversed(twins))
        return group

    async def _settle(self, group: Sequence[_Pending]) -> None:
        """Store a group, splitting it for as long as one of its members spoils it."""
        refusal = await self._store(group)
        if refusal is None:
            return
        if len(group) == 1:
            await self._settle_alone(group[0], refusal)
            return
        # Killed between the halves, the first is committed and the second is not: its tasks
        # are delivered again. No task is ever stored in part.
        middle = len(group) // 2
        await self._settle(group[:middle])
        await self._settle(group[middle:])

    async def _settle_single(self, pending: _Pending) -> None:
        """Store the one message of a task without outputs."""
        refusal = await self._broker.write(pending.effects.records, soon=False)
        if refusal is None:
            _answer(pending, _COMMITTED)
        else:
            await self._settle_alone(pending, refusal)

    async def _store(self, group: Sequence[_Pending]) -> Refusal | None:
        joins, aside = await self._joins(group)
        kept = [pending for pending in group if pending not in aside]
        entries: list[Entry] = []
        for pending in kept:
            entries += pending.effects.records
            entries += pending.effects.outputs
        entries += joins
        crossing = [entry for pending in kept for entry in pending.effects.crossing]
        entries += pack(crossing, self._broker.body_limit)
        refusal = await self._broker.write(entries) if entries else None
        if refusal is None:
            for pending in kept:
                _answer(pending, _COMMITTED)
            await asyncio.gather(*(self._leave_out(*pair) for pair in aside.items()))
        return refusal

    async def _leave_out(self, pending: _Pending, why: Settlement) -> None:
        """Answer a member that could not join: a second copy of one that has, or `why` not."""
        _answer(pending, _ALREADY if await self._is_there(pending.effects) else why)

    async def _joins(
        self, group: Sequence[_Pending]
    ) -> tuple[list[Entry], dict[_Pending, Settlement]]:
        """Fold the members in a group by the groups they join; also say why some cannot join."""
        by_subject: dict[str, list[_Pending]] = {}
        for pending in group:
            if pending.effects.joining is not None:
                by_subject.setdefault(pending.effects.joining.subject, []).append(pending)
        if not by_subject:
            return [], {}
        counts = await asyncio.gather(*(self._broker.read(subject) for subject in by_subject))
        entries: list[Entry] = []
        aside: dict[_Pending, Settlement] = {}
        for members, count in zip(by_subject.values(), counts, strict=True):
            try:
                folded = self._fold(members, count)
            except BadMessage as error:  # by somebody else; other tasks must not suffer for it
                unreadable = Settlement(Settled.UNACCEPTABLE, str(error))
                aside.update(dict.fromkeys(members, unreadable))
            else:
                entries += folded.entries
                aside.update(dict.fromkeys(members[folded.accepted :], _LATE))
        return entries, aside

    def _fold(self, members: Sequence[_Pending], count: Stored | None) -> gather.Fold:
        joinings = [m.effects.joining for m in members if m.effects.joining is not None]
        return gather.fold(self._broker.names, count, joinings)

    async def _settle_alone(self, pending: _Pending, refusal: Refusal) -> None:
        """Give the one member of a refused batch its own answer."""
        if refusal.kind is Refused.UNACCEPTABLE:
            _answer(pending, Settlement(Settled.UNACCEPTABLE, refusal.text))
            return
        if await self._is_there(pending.effects):
            _answer(pending, _ALREADY)
            return
        if refusal.kind is Refused.DUPLICATE:
            pending = await self._without_duplicates(pending)
        # A group's count moved under a member, or its children were there before it: try anew.
        self._begun = asyncio.get_running_loop().time()  # a replica may lag
        self._waiting.appendleft(pending)
        self._wake.set()

    async def _is_there(self, effects: Effects) -> bool:
        """Whether a task's end is stored: its record or, while its group is open, its place.

        Of several tasks that end as one, whether any has ended: then they cannot any more.
        """
        for record in effects.records:
            if await self._broker.read(record.subject) is not None:
                return True
        joining = effects.joining
        return joining is not None and await self._broker.read(joining.entry.subject) is not None

    async def _without_duplicates(self, pending: _Pending) -> _Pending:
        """Leave out the outputs that are stored already: for their parent that is a success."""
        effects = pending.effects
        first = len(effects.outputs)
        there = await self._broker.duplicates((*effects.outputs, *effects.crossing))
        kept = tuple(entry for i, entry in enumerate(effects.outputs) if i not in there)
        across = tuple(entry for i, entry in enumerate(effects.crossing, first) if i not in there)
        effects = msgspec.structs.replace(effects, outputs=kept, crossing=across)
        return _Pending(effects, pending.answer)


def _are_single(group: Sequence[_Pending]) -> bool:
    """Whether each task of a small group is one message, and its record that message."""
    return len(group) <= FEW and all(
        pending.effects.messages == len(pending.effects.records) == 1 for pending in group
    )


def _answer(pending: _Pending, settlement: Settlement) -> None:
    if not pending.answer.done():
        pending.answer.set_result(settlement)


def _fail(answer: "asyncio.Future[Settlement]", error: BaseException) -> None:
    if isinstance(error, asyncio.CancelledError):
        answer.cancel()
    else:
        answer.set_exception(error)
