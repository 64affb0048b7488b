"""Batches: deliveries that a slot has taken at once, and how they take turns in it.

Every delivery goes its own way from reading to ack. In between they meet: nobody runs before all
have come or left, then they run in their order, each alone or, in an atomic batch, all as one. The
slot falls free when the last of them has run.

An atomic batch runs as its first task, and what it emitted is stored once, in one write with the
records of all its tasks. So it is stored whole or not at all; if one of them has ended meanwhile,
nothing is, and the others run again without it. A task that has failed before runs alone, so that
one that always fails takes nobody with it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec

from scalebox_actors.ports import Delivery, Task
from scalebox_actors.records import Outcome, Settlement

T = TypeVar("T")
Launch = Callable[[Task], Awaitable[Outcome]]


class Seated(msgspec.Struct, frozen=True, eq=False):
    """A task of a batch that has come to its turn, and the delivery that it came with."""

    task: Task
    delivery: Delivery


class Group:
    """Tasks of a batch that run as one; most often one task."""

    def __init__(self, seated: Sequence[Seated], after: "Group | None") -> None:
        self.seated = tuple(seated)
        self._after = after
        self._outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._settlement: asyncio.Future[Settlement] = self._outcome.get_loop().create_future()
        self._over = asyncio.Event()

    @property
    def together(self) -> bool:
        """Whether several tasks run as one."""
        return len(self.seated) > 1

    def leads(self, task_id: str) -> bool:
        """Whether a task is the one that the others run as."""
        return self.seated[0].task.message.id == task_id

    async def run(self, task_id: str, launch: Launch) -> Outcome:
        """Run in turn: as the leader, or as one for whom the leader runs."""
        if not self.leads(task_id):
            outcome = await asyncio.shield(self._outcome)
            return msgspec.structs.replace(outcome, emissions=(), removed=())
        try:
            if self._after is not None:
                await self._after.over()
            return await _shared(self._outcome, launch(self._task()))
        finally:
            self._over.set()

    async def settle(self, task_id: str, commit: Callable[[], Awaitable[Settlement]]) -> Settlement:
        """Store the end of all: the leader does, the others wait for what becomes of it."""
        if self.leads(task_id):
            return await _shared(self._settlement, commit())
        return await asyncio.shield(self._settlement)

    def give_up(self, task_id: str) -> None:
        """Tell those who wait for a leader that is no more."""
        if self.leads(task_id):
            self._outcome.cancel()
            self._settlement.cancel()

    async def over(self) -> None:
        """Wait until its run has ended."""
        await self._over.wait()

    def _task(self) -> Task:
        first = self.seated[0].task
        members = tuple(seated.task.message for seated in self.seated) if self.together else ()
        return msgspec.structs.replace(first, members=members) if members else first


class Batch:
    """The deliveries that one slot has taken at once."""

    def __init__(self, ids: Sequence[str], *, atomic: bool) -> None:
        self.seat: int | None = None
        self.holder: asyncio.Task[None] | None = None
        """The work that holds the slot for all of them."""
        self.over = asyncio.Event()
        self._atomic = atomic
        self._ids = tuple(ids)
        self._coming, self._running = set(ids), set(ids)
        self._seated: dict[str, Seated] = {}
        self._alone: set[str] = set()
        self._complete = asyncio.Event()
        self._groups: dict[str, Group] = {}

    async def run(self, seated: Seated, launch: Launch, *, alone: bool) -> Outcome:
        """Wait until all have come or left and it is this one's turn, and run."""
        task_id = seated.task.message.id
        self._seated[task_id] = seated
        if alone:
            self._alone.add(task_id)
        self._come(task_id)
        await self._complete.wait()
        return await self._groups[task_id].run(task_id, launch)

    def group(self, task_id: str) -> Group | None:
        """Return with whom a task ran as one, if with anybody."""
        group = self._groups.get(task_id)
        return group if group is not None and group.together else None

    def vacate(self, task_id: str) -> bool:
        """Note that nothing runs for a task any more; True if it was the last."""
        self._come(task_id)
        self._running.discard(task_id)
        if self._running or self.over.is_set():
            return False
        self.over.set()
        return True

    def leave(self, task_id: str) -> bool:
        """Note that nobody works on a task any more; True if the slot falls free by that."""
        if task_id in self._groups:
            self._groups[task_id].give_up(task_id)
        return self.vacate(task_id)

    def _come(self, task_id: str) -> None:
        self._coming.discard(task_id)
        if not self._coming and not self._complete.is_set():
            self._form()
            self._complete.set()

    def _form(self) -> None:
        """Put those who came into groups, in the order in which they were taken."""
        came = [self._seated[one] for one in self._ids if one in self._seated]
        as_one = [s for s in came if self._atomic and s.task.message.id not in self._alone]
        apart = [[s] for s in came if s not in as_one]
        last: Group | None = None
        for seated in ([as_one] if as_one else []) + apart:
            last = Group(seated, last)
            self._groups.update({one.task.message.id: last for one in seated})


class Seats:
    """Which of a module's slots each task in hand has, and which tasks share one."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._free = list(range(slots - 1, -1, -1))
        self._taken: dict[str, int] = {}
        self._batches: dict[str, Batch] = {}

    def share(self, ids: Sequence[str], *, atomic: bool) -> Batch:
        """Let tasks that were taken at once share a slot."""
        batch = Batch(ids, atomic=atomic)
        self._batches.update(dict.fromkeys(ids, batch))
        return batch

    def batch(self, task_id: str) -> Batch | None:
        """Return with whom a task shares a slot."""
        return self._batches.get(task_id)

    def sit(self, task_id: str) -> int:
        """Return the number of the slot that a task has from now on."""
        batch = self._batches.get(task_id)
        if batch is not None and batch.seat is not None:
            return batch.seat
        seat = self._free.pop() if self._free else self._slots
        if batch is not None:
            batch.seat = seat
        else:
            self._taken[task_id] = seat
        return seat

    def vacate(self, task_id: str) -> "asyncio.Task[None] | None":
        """Note that nothing runs for a task any more; return the work whose slot is free now."""
        batch = self._batches.get(task_id)
        if batch is None:
            self._stand_up(self._taken.pop(task_id, None))
            return asyncio.current_task()
        if not batch.vacate(task_id):
            return None
        self._stand_up(batch.seat)
        return batch.holder

    async def leave(self, task_id: str) -> "asyncio.Task[None] | None":
        """Note that nobody works on a task any more; as `vacate`.

        Whoever holds the slot for others stays until the last of them has run.
        """
        batch = self._batches.pop(task_id, None)
        if batch is None:
            self._stand_up(self._taken.pop(task_id, None))
            return None
        if batch.leave(task_id):
            self._stand_up(batch.seat)
            return batch.holder
        if batch.holder is asyncio.current_task():
            await batch.over.wait()
        return None

    def _stand_up(self, seat: int | None) -> None:
        if seat is not None and seat < self._slots:
            self._free.append(seat)


async def _shared(future: "asyncio.Future[T]", work: Awaitable[T]) -> T:
    """Do what others wait for; they are told what comes of it, whatever it is."""
    try:
        result = await work
    except Exception as error:
        if not future.done():
            future.set_exception(error)
            future.exception()  # nobody may be waiting, and that is no fault
        raise
    if not future.done():
        future.set_result(result)
    return result
