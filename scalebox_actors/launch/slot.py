"""A slot: a seat for programs that keeps its container between messages.

Its life is Scalebox's: setup, then for every message a check and a run, then teardown. It is
opened when a message comes for it and ends when none has come for long, after so many runs, so
old, or when it is of no use any more.
"""

import asyncio
import contextlib
import logging
import time
from enum import StrEnum

import msgspec

from scalebox_actors.errors import NODE_ENDS, BadMessage, NotAdmitted, RuntimeUnavailable, SbxError
from scalebox_actors.launch.agent import NO_HOOK, Said
from scalebox_actors.launch.outcomes import unusable, unwanted
from scalebox_actors.launch.paths import Paths
from scalebox_actors.launch.slot_container import SlotContainer, closed
from scalebox_actors.launch.workplace import Workplace
from scalebox_actors.limits import (
    CLOSE_GRACE,
    SLOT_CHECK,
    SLOT_REOPEN,
    SLOT_SHORT_RUNS,
    SLOT_TEARDOWN,
    STOP_GRACE,
)
from scalebox_actors.ports import Task
from scalebox_actors.records import Cause, Outcome
from scalebox_actors.topology.model import Module

LAST = "slot_last_task"
LONGEST_PAUSE = 60.0
WORDS = 300

log = logging.getLogger(__name__)


class State(StrEnum):
    """How a slot is; Scalebox's words."""

    READY = "READY"
    """Never opened yet."""
    STARTING = "STARTING"
    ON = "ON"
    OFF = "OFF"
    """Ended, in good order; it is opened again when a message comes."""
    ERROR = "ERROR"
    """Its setup or teardown failed."""
    TIMEOUT = "TIMEOUT"
    """Its setup took too long."""
    GREEDY = "GREEDY"
    """Its runs were too short to be true."""


class SlotClosed(Exception):
    """The slot takes no messages for now; another one may."""


class _StoppedError(Exception):
    """The task was ended before its program began."""


class Slot:
    """One of a module's slots on this node."""

    def __init__(self, module: Module, place: Workplace, seq: int) -> None:
        self.seq = seq
        self.state = State.READY
        self.why = ""
        """What was wrong with it last."""
        self._module, self._place = module, place
        self._container: SlotContainer | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._hold = asyncio.Event()
        self._closing = False
        self._stopped = False
        """Whether somebody wants the task in hand to end."""
        self._rested = asyncio.Event()
        self._rested.set()
        self._reopens = 0.0
        self._failures = self._short = self._runs = 0
        self._opened = 0.0

    @property
    def taken(self) -> bool:
        """Whether it is kept for a message."""
        return not self._rested.is_set()

    @property
    def closed(self) -> bool:
        """Whether it takes no messages."""
        return self._reopens > time.monotonic()

    @property
    def paths(self) -> Paths | None:
        """How paths of the program that ran last correspond to those of the host."""
        return self._container.paths if self._container is not None else None

    def holds(self, name: str) -> bool:
        """Whether a container, or a folder, is this slot's."""
        return self._container is not None and self._container.name == name

    async def run(self, task: Task) -> Outcome:
        """Run a task, opening the slot first if it is not; raises SlotClosed if that fails.

        Raises NotAdmitted if the node ends before the program.
        """
        try:
            container = await self._usable_container()
        except _StoppedError:
            return unwanted()
        task = self._marked(task)
        try:
            await self._admitted(container, task)
            outcome = await container.run(task)
        except BadMessage as error:
            return unusable(str(error))
        except OSError as error:  # a program spoilt the directory for good: with a new one, then
            await self._leave(container)
            raise RuntimeUnavailable(
                f"work directory of {container.name}: {error.strerror}"
            ) from error
        if self._closing and outcome.cause is Cause.LOST:
            raise NotAdmitted(NODE_ENDS)
        self._count(task, outcome)
        return outcome

    async def stop(self, grace: float = STOP_GRACE) -> None:
        """End what runs, or let it not begin."""
        self._stopped = True
        if self._container is not None:
            await self._container.stop(grace)

    def take(self) -> None:
        """Keep it for a message."""
        self._stopped = False
        self._rested.clear()
        if self._idle is not None:
            self._idle.cancel()

    def rest(self) -> None:
        """Let the message go; the container waits for the next one, or ends."""
        self._rested.set()
        container, keep = self._container, self._module.keep
        if container is None or self._hold.is_set():
            return
        old = keep.age is not None and time.monotonic() - self._opened >= keep.age
        if self.closed or old or not container.usable or 0 < keep.runs <= self._runs:
            self._end()
        else:
            self._idle = asyncio.get_running_loop().call_later(keep.idle, self._end)

    def hold(self) -> None:
        """Wait for nothing any more: the node ends."""
        self._hold.set()

    async def close(self, seconds: float) -> None:
        """End, with teardown if nothing runs, and what runs with it; for good."""
        self._closing = True
        self._hold.set()
        if self._idle is not None:
            self._idle.cancel()
        if self._leaving is not None:
            await asyncio.wait([self._leaving])
        if self.taken:
            with contextlib.suppress(RuntimeUnavailable):
                await self.stop(CLOSE_GRACE)
            # What a program that ended just now has left is collected first: it counts.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_GRACE):
                    await self._rested.wait()
        if self._container is not None:
            await self._leave(self._container, seconds)

    # --- opening ----------------------------------------------------------------------------

    async def _usable_container(self) -> SlotContainer:
        while True:
            if self._leaving is not None:
                await asyncio.wait([self._leaving])
            self._require_wanted()
            if self._container is not None and self._container.usable:
                return self._container
            if self._container is not None:
                await self._leave(self._container)
            said = await self._open()
            self._require_wanted()
            if said is None:
                continue
            self._failed(said)
            if self.closed:
                raise SlotClosed(self.why)
            await self._pause(min(2.0 ** (self._failures - 1), LONGEST_PAUSE))

    async def _open(self) -> Said | None:
        """Open a container; return what its `setup` said if that failed."""
        self.state, self._runs = State.STARTING, 0
        self._container = container = SlotContainer(self._module, self._place, self.seq)
        try:
            said = await container.open()
        except BaseException as error:
            self.state = State.READY
            await self._leave(container)
            if isinstance(error, SbxError):  # that may have been us
                self._require_wanted()
            raise
        self._opened = time.monotonic()
        if said.code in (0, NO_HOOK) and said.exit is None:
            self.state = State.ON
            return None
        await self._leave(container)
        self.state = State.READY
        return said

    def _require_wanted(self) -> None:
        """Raise what says that the task for which a container is made is not to begin."""
        if self._closing:
            raise NotAdmitted(NODE_ENDS)
        if self._stopped:
            raise _StoppedError

    def _failed(self, said: Said) -> None:
        self.state = State.TIMEOUT if said.timed_out else State.ERROR
        self._failures += 1
        code = said.exit.code if said.exit else said.code
        ended = "took too long" if said.timed_out else f"ended with {code}"
        tail = (said.logs.stderr or said.logs.stdout)[-WORDS:].decode("utf-8", "replace")
        self.why = f"slot {self.seq}: setup {ended}" + (f": {tail.strip()}" if tail else "")
        log.error("slot_failed", extra={"sbx_module": self._module.name, "why": self.why})
        if self._failures > self._module.keep.restarts:
            self._reopens = time.monotonic() + SLOT_REOPEN

    # --- a run ------------------------------------------------------------------------------

    async def _admitted(self, container: SlotContainer, task: Task) -> None:
        """Wait until the `check` hook lets the task in; raises NotAdmitted if the node ends."""
        while not await container.admits(task):
            await self._pause(SLOT_CHECK)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hold.wait()
        if self._hold.is_set():
            raise NotAdmitted(NODE_ENDS)

    def _marked(self, task: Task) -> Task:
        """Tell the last task of a container that it is the last."""
        runs = self._module.keep.runs
        if not runs or self._runs + (len(task.members) or 1) < runs:
            return task
        headers = {**task.message.headers, LAST: "yes"}
        message = msgspec.structs.replace(task.message, headers=headers)
        return msgspec.structs.replace(task, message=message)

    def _count(self, task: Task, outcome: Outcome) -> None:
        self._runs += len(task.members) or 1
        shortest = self._module.keep.shortest
        if outcome.finished - outcome.started >= shortest:
            self._short = self._failures = 0
            return
        self._short += 1
        if self._short >= SLOT_SHORT_RUNS:
            self._short, self.state = 0, State.GREEDY
            self._reopens = time.monotonic() + SLOT_REOPEN
            self.why = (
                f"slot {self.seq}: {SLOT_SHORT_RUNS} runs on end took less than {shortest:g} s"
            )
            log.error("slot_greedy", extra={"sbx_module": self._module.name, "why": self.why})

    # --- ending -----------------------------------------------------------------------------

    def _end(self) -> None:
        container = self._container
        if container is not None and not self.taken:
            self._leaving = asyncio.create_task(self._leave(container, SLOT_TEARDOWN))

    async def _leave(self, container: SlotContainer, teardown: float = 0.0) -> None:
        """Remove a container, with so much time for its `teardown` first, if it can have one."""
        begun = self.state not in (State.STARTING, State.READY)
        torn = teardown and begun and container.usable
        bad = await _torn_down(container, teardown) if torn else ""
        await closed(container)
        if self._container is container:
            self._container = None
        if bad:
            self.why = f"slot {self.seq}: {bad}"
            log.error("slot_failed", extra={"sbx_module": self._module.name, "why": self.why})
        if self.state is State.ON:
            self.state = State.ERROR if bad else State.OFF


async def _torn_down(container: SlotContainer, seconds: float) -> str:
    """Run the `teardown` hook and say how it failed, if it did."""
    try:
        said = await container.hook("teardown", seconds)
    except (SbxError, OSError) as error:  # engine or disk: the container is left to the reaper
        return f"teardown: {error}"
    if said.timed_out:
        return "teardown took too long"
    code = said.exit.code if said.exit else said.code
    return "" if code in (0, NO_HOOK) else f"teardown ended with {code}"
