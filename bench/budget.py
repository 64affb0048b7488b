"""Time for all cases together, and what each of them gets of it."""

import time
from collections.abc import Callable, Mapping


class Budget:
    """So many seconds for some cases, which come in their order.

    Each gets what it cannot do without, and of the rest a share by its own bound. What one has used
    above its share, or left, is the next ones': so the whole is over in time.
    """

    def __init__(
        self,
        seconds: float,
        bounds: Mapping[str, float],
        least: Mapping[str, float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bounds, self._least, self._clock = dict(bounds), dict(least), clock
        self._until = clock() + seconds

    def take(self, case: str) -> float:
        """Return the seconds of a case whose turn it is; it is not to come any more."""
        left = self._until - self._clock() - sum(self._least.values())
        part = self._bounds[case] / sum(self._bounds.values())
        bound, least = self._bounds.pop(case), self._least.pop(case)
        return min(bound, least + max(0.0, left) * part)
