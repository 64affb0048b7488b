"""A tape: it numbers every call of a double's port and can make one of them go wrong.

Crash enumeration replays a scenario once per call and kind of fault: FAULTS calls it the first
of the instruments.
"""

import asyncio
from enum import StrEnum

from scalebox_actors.errors import RuntimeUnavailable, Unavailable


class Fault(StrEnum):
    """How a call goes wrong."""

    FAIL_BEFORE = "fail before"
    """It is not done and reports failure."""
    FAIL_AFTER = "fail after"
    """It is done and reports failure all the same."""
    CANCEL = "cancel"
    """The task that makes it is cancelled at this await."""
    CANCEL_AFTER = "cancel after"
    """It is done, and the task is cancelled before it knows."""
    KILL = "kill"
    """The process dies before it: no call after this one is ever done."""
    KILL_AFTER = "kill after"
    """It is done, and the process dies before it knows."""


class Killed(BaseException):
    """The process that made this call is dead; no handler of its own may catch this."""


class Tape:
    """Writes down the calls of a scenario; with `faults` some of them, from 1, go wrong."""

    def __init__(self, faults: dict[int, Fault] | None = None) -> None:
        self.calls: list[str] = []
        self.dead = False
        self._faults = faults or {}

    async def before(self, call: str) -> int:
        """Note a call and return its number; raises what the tape holds for it."""
        if self.dead:
            raise Killed(call)
        self.calls.append(call)
        number = len(self.calls)
        fault = self._faults.get(number)
        if fault is Fault.FAIL_BEFORE:
            raise _failure(call)
        if fault is Fault.CANCEL:
            await _cancelled()
        if fault is Fault.KILL:
            self.dead = True
            raise Killed(call)
        await asyncio.sleep(0)  # whoever else is ready runs now, as with a real round trip
        if self.dead:
            raise Killed(call)
        return number

    async def after(self, number: int) -> None:
        """Let a call that was done end as the tape says."""
        fault = self._faults.get(number)
        if fault is Fault.FAIL_AFTER:
            raise _failure(self.calls[number - 1])
        if fault is Fault.CANCEL_AFTER:
            await _cancelled()
        if fault is Fault.KILL_AFTER:
            self.dead = True
            raise Killed(self.calls[number - 1])

    async def step(self, call: str) -> None:
        """Note a call of a double that has only this hook; what comes after it cannot fail."""
        await self.before(call)

    def next_life(self) -> None:
        """Let the process be started anew; what it calls from now on is written on as before."""
        self.dead = False


def _failure(call: str) -> Unavailable:
    kind = RuntimeUnavailable if call.startswith("runtime.") else Unavailable
    return kind(f"the tape lets {call} fail")


async def _cancelled() -> None:
    task = asyncio.current_task()
    if task is None:
        raise asyncio.CancelledError
    task.cancel()
    await asyncio.sleep(0)
