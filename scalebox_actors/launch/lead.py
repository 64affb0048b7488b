"""How many more tasks than slots a launcher takes, where its runtime lets runs take turns.

Where runs take milliseconds, a slot would stand empty while the node hears of an end, takes the
next message and hands over its run. So some are handed over before there is a slot for them.
"""

from collections.abc import Callable

from scalebox_actors.launch.environment import Surroundings, seat_variables
from scalebox_actors.pool import run_claim
from scalebox_actors.spec import Lane
from scalebox_actors.topology.model import Module

SHORT = 0.05
"""Seconds; runs are handed over ahead where they take less."""
HORIZON = 0.01
"""Seconds in which those that wait for their turn are worked off."""
MOST = 8
"""So many, or as many as there are slots, may wait for their turn."""
TURN = 1.0
"""Seconds after which one that waits behind a long run is given back: others may have room."""
_WEIGHT = 0.2


class Lead:
    """Watches how long runs take, and says when the number of tasks in hand should change."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._room = slots
        self._seconds = SHORT
        self.tell: Callable[[int], None] = lambda _: None

    def note(self, seconds: float) -> None:
        """Take note of a run that took so long."""
        self._seconds += _WEIGHT * (max(seconds, 0.0) - self._seconds)
        self._become(self._slots + self._ahead())

    def give_up(self) -> None:
        """Take nothing ahead until runs are short again."""
        self._seconds = max(self._seconds, TURN)
        self._become(self._slots)

    def _ahead(self) -> int:
        if self._seconds >= SHORT:
            return 0
        soon = round(HORIZON * self._slots / max(self._seconds, 1e-4))
        return max(1, min(soon, max(self._slots, MOST)))

    def _become(self, room: int) -> None:
        if room != self._room:
            self._room = room
            self.tell(room)


def lane_of(module: Module, surroundings: Surroundings) -> Lane | None:
    """Return the lane of a module's runs; None where each needs more than a slot to begin."""
    if module.batch is not None or module.warm or run_claim(module):
        return None
    return Lane(
        name=f"{surroundings.topology}.{module.name}",
        seats=module.slots,
        variables=seat_variables(module, surroundings),
    )
