"""When somebody's time is up in the life of a resident program, by the loop's clock. Pure."""

from collections.abc import Collection

from scalebox_actors.launch.resident_fate import NEVER, Asked, Ending, Why, whom_to_blame
from scalebox_actors.limits import RESIDENT_BEATS_LOST
from scalebox_actors.topology.model import Module


class Clock:
    """What one program has promised and been granted, and when it was last heard of."""

    def __init__(self, module: Module, now: float) -> None:
        self._timeout = float(module.timeout)
        self._idle = float(module.keep.idle)
        self._age = NEVER if module.keep.age is None else float(module.keep.age)
        self.heartbeat = 0.0
        """It has promised a sign of life so often; 0: it has promised nothing."""
        self._opened = self._busy = self._heard = self._pinged = now

    def open(self, now: float) -> None:
        """Begin to count its age: it is ready."""
        self._opened = self._busy = now

    def busy(self, now: float) -> None:
        """Note that it has something to do, or had until now."""
        self._busy = now

    def heard(self, now: float) -> None:
        """Note that it has said something."""
        self._heard = now

    def pinged(self, now: float) -> None:
        """Note that it was asked for a sign of life."""
        self._pinged = now

    @property
    def silence(self) -> float:
        """So long it may say nothing."""
        return RESIDENT_BEATS_LOST * self.heartbeat if self.heartbeat else NEVER

    @property
    def patience(self) -> float:
        """So long after it got a message there is nothing to look at."""
        return min(self._timeout, self.silence)

    @property
    def leisure(self) -> float:
        """So long without a message there is nothing to look at."""
        return min(self._idle, self.heartbeat or NEVER)

    def at_start(self, now: float) -> Ending | float:
        """Before it is ready: end it, or look again at a time."""
        due = self._opened + self._timeout
        if now >= due:
            return Ending(Why.TIMEOUT, f"not ready after {self._timeout:g} s")
        return due

    def old(self, now: float) -> bool:
        """Whether it should take nothing more."""
        return now >= self._opened + self._age

    def at_work(self, now: float, in_flight: Collection[Asked]) -> Ending | float:
        """While it has messages: end it, or look again at a time."""
        given = [asked for asked in in_flight if asked.given < NEVER]
        if not given:
            return now + self.patience
        late = [asked for asked in given if now >= asked.given + self._timeout]
        if late:
            detail = f"ended at its timeout of {self._timeout:g} s"
            return Ending(Why.TIMEOUT, detail, *whom_to_blame(late))
        silent = [asked for asked in given if now >= asked.heard + self.silence]
        if silent:
            detail = f"ended after {self.silence:g} s without a beat"
            return Ending(Why.SILENT, detail, *whom_to_blame(silent))
        return min(
            min(asked.given for asked in given) + self._timeout,
            min(asked.heard for asked in given) + self.silence,
            NEVER if self.old(now) else self._opened + self._age,
        )

    def at_rest(self, now: float) -> Ending | float:
        """While it has nothing to do: end it, or look again at a time."""
        ends = min(self._busy + self._idle, self._opened + self._age)
        if now >= ends:
            return Ending(Why.RETIRED)
        sign = max(self._heard, self._busy)
        if now >= sign + self.silence:
            return Ending(Why.SILENT, f"no answer to a ping for {self.silence:g} s")
        if not self.heartbeat:
            return ends
        return min(ends, sign + self.silence, self._next_ping(now))

    def wants_ping(self, now: float) -> bool:
        """Whether a program at rest should be asked for a sign of life."""
        last = max(self._heard, self._busy, self._pinged)
        return bool(self.heartbeat) and now >= last + self.heartbeat

    def _next_ping(self, now: float) -> float:
        if self.wants_ping(now):
            return now + self.heartbeat
        return max(self._heard, self._busy, self._pinged) + self.heartbeat
