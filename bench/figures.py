"""A figure: what we reached, what the baseline reached in the same rounds, and what is asked.

The machine is shared and moves by a factor of two within minutes, so nothing is compared with
another run: ours and the baseline alternate, and the ratio is the median of the rounds' ratios.
"""

import statistics
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

Measure = Callable[[], Awaitable[float]]


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """What a figure has to reach."""

    limit: float
    at_least: bool = True
    """Whether more is better."""
    of_ratio: bool = False
    """Whether the ratio is meant and not the value."""

    def reached_by(self, value: float) -> bool:
        """Whether `value` is enough."""
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        sign = "≥" if self.at_least else "≤"
        return f"{sign} {self.limit:,g}{' x' if self.of_ratio else ''}"


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table; a value per round."""

    name: str
    unit: str
    ours: tuple[float, ...]
    against: str
    """What the baseline is, in a few words."""
    baseline: tuple[float, ...]
    bar: Bar | None = None
    note: str = ""

    @property
    def value(self) -> float:
        """The median of our rounds."""
        return statistics.median(self.ours)

    @property
    def reference(self) -> float:
        """The median of the baseline's rounds."""
        return statistics.median(self.baseline)

    @property
    def ratio(self) -> float:
        """The median of ours divided by the baseline of the same round."""
        pairs = zip(self.ours, self.baseline, strict=True)
        return statistics.median(ours / base for ours, base in pairs)

    @property
    def met(self) -> bool | None:
        """Whether the bar is reached; None if nothing is asked."""
        if self.bar is None:
            return None
        return self.bar.reached_by(self.ratio if self.bar.of_ratio else self.value)


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """A row that could not be measured, and why; it stands in the table all the same."""

    name: str
    reason: str


class CaseReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one case found, and under what load."""

    case: str
    title: str
    command: str
    how: str
    """How it was measured and what the baseline does, for docs/numbers.md."""
    figures: tuple[Figure, ...] = ()
    gaps: tuple[Gap, ...] = ()
    load_before: float = 0.0
    load_after: float = 0.0
    seconds: float = 0.0
    failure: str = ""
    """Why there are no figures."""


class Effort(msgspec.Struct, frozen=True, kw_only=True):
    """How much is measured: rounds, a share of the usual counts, and a time to stop at."""

    rounds: int
    quick: bool
    until: float
    """By `time.monotonic()`; after it no further round is begun."""

    def share(self, left: int) -> "Effort":
        """Return the effort for one of `left` figures that are still to come."""
        now = time.monotonic()
        return msgspec.structs.replace(self, until=now + max(0.0, self.until - now) / left)

    def pick(self, full: int, quick: int) -> int:
        """Return a count: one for the full run or one for the quick one."""
        return quick if self.quick else full


async def alternate(
    effort: Effort, ours: Measure, baseline: Measure
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Measure both in turn, round by round; who begins changes with every round."""
    mine, base = await take_turns(effort, (ours, baseline))
    return mine, base


async def take_turns(effort: Effort, sides: Sequence[Measure]) -> list[tuple[float, ...]]:
    """Measure every side once a round; another one begins each round. Values by side and round."""
    values: list[list[float]] = [[] for _ in sides]
    for number in range(effort.rounds):
        if number and time.monotonic() > effort.until:
            break
        for place in range(len(sides)):
            side = (place + number) % len(sides)
            values[side].append(await sides[side]())
    return [tuple(taken) for taken in values]


def beyond(ours: Sequence[float], baseline: Sequence[float]) -> tuple[float, ...]:
    """Return ours less the baseline of the same round."""
    return tuple(mine - bare for mine, bare in zip(ours, baseline, strict=True))
