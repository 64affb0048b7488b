"""How far a run is: pure reckoning of rate and time left, and how that reads."""

from collections import deque
from collections.abc import Sequence

import msgspec

from scalebox_actors.cli.show import duration, plural
from scalebox_actors.local import ModuleView

WINDOW = 10.0
"""Rates are taken over so many seconds: long enough to be calm, short enough to be true."""


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How quickly tasks end now, and when those that are known will have ended."""

    elapsed: float
    rate: float
    left: float | None
    """None as long as nothing has ended lately."""


class Pacer:
    """Reckons the pace of a run from what was seen of it; the caller brings the time."""

    def __init__(self, now: float) -> None:
        self._began = now
        self._seen: deque[tuple[float, int]] = deque([(now, 0)])

    def see(self, views: Sequence[ModuleView], now: float) -> Pace:
        """Return the pace at this moment."""
        ended = sum(view.done + view.dead for view in views)
        self._seen.append((now, ended))
        while len(self._seen) > 2 and now - self._seen[1][0] >= WINDOW:  # noqa: PLR2004 - two make a span
            self._seen.popleft()
        then, before = self._seen[0]
        rate = (ended - before) / (now - then) if now > then else 0.0
        ahead = sum(view.waiting + view.in_hand for view in views)
        left = ahead / rate if rate > 0 else None
        return Pace(elapsed=now - self._began, rate=rate, left=left)


def headline(pace: Pace) -> str:
    """Return `12s, 5.4 tasks/s, about 3s left`; what is known to follow, more may be written."""
    parts = [duration(pace.elapsed), f"{pace.rate:,.1f} tasks/s"]
    if pace.left:
        parts.append(f"about {duration(pace.left)} left")
    return ", ".join(parts)


def plain(views: Sequence[ModuleView], pace: Pace) -> str:
    """Return the whole state on one line, for logs and pipes."""
    modules = "; ".join(f"{view.module}: {_words(view)}" for view in views)
    return f"{headline(pace)} | {modules}"


def cells(view: ModuleView) -> tuple[str, ...]:
    """Return the cells of a module's row in the live table."""
    counts = (view.waiting, view.in_hand, view.done, view.dead, view.retried)
    return (view.module, *(f"{count:,}" for count in counts), view.suspended)


def farewell(topology: str, views: Sequence[ModuleView], seconds: float) -> str:
    """Return the sentence at the end of a run."""
    done, dead = sum(view.done for view in views), sum(view.dead for view in views)
    retried = sum(view.retried for view in views)
    parts = [f"{plural(done, 'task')} done"]
    parts += [f"{dead:,} failed"] if dead else []
    parts += [f"{retried:,} retried"] if retried else []
    return f"{topology}: {', '.join(parts)} in {duration(seconds)}"


def _words(view: ModuleView) -> str:
    words = ((view.waiting, "waiting"), (view.in_hand, "running"), (view.done, "done"))
    more = ((view.dead, "failed"), (view.retried, "retried"))
    told = [f"{count:,} {word}" for count, word in words if count]
    told += [f"{count:,} {word}" for count, word in more if count]
    told += [f"suspended ({view.suspended})"] if view.suspended else []
    return ", ".join(told) or "nothing yet"
