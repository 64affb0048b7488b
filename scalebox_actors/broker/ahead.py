"""How many messages to ask for beyond the slots that are free: none, unless runs are short.

Where a run takes a few milliseconds, the way to the server and back, behind its syncs to disk,
takes longer than the run. So as many messages again as there are slots are kept at hand, and more
where those would be worked off before others can come. They wait for about as long as one run
takes; when runs become long they are given back, since another node may have a free slot for them.
"""

SHORT = 0.1
"""Seconds; where slots fall free after less, the next message is asked for ahead."""
HORIZON = 0.02
"""Seconds in which what is at hand may be worked off: a few ways to a server with a slow disk."""
LATE = 1.0
"""Seconds without a slot that fell free, after which what is at hand is given back."""
LONGEST = 2 * SHORT
"""What a gap counts for at most: a module that had no message for an hour is no slower for that."""
_WEIGHT = 0.1
"""Of a new gap in the smoothed one; the first few count as much as those before them together."""


class Ahead:
    """Watches how quickly slots fall free."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._slots = 0
        self._gap = LONGEST
        """Seconds between two slots that fell free, smoothed."""
        self._last = 0.0
        self._gaps = 0
        self._busy = 0
        """Slots in use: one that never was does not fall free."""
        self.slots_free = 0
        """Deliveries that may be handed out now."""
        self.amount = 0
        """Messages that may be at hand beyond that."""

    def free(self, slots: int, now: float) -> int:
        """Note that slots fell free, and return by how much `amount` changed."""
        self.slots_free += slots
        if not self._most or slots <= 0:
            return 0
        self._slots = max(self._slots, self.slots_free)
        fallen, self._busy = min(slots, self._busy), max(0, self._busy - slots)
        if fallen and self._last:
            self._gaps += 1
            weight = max(_WEIGHT, 1 / self._gaps)
            gap = min((now - self._last) / fallen, LONGEST)
            self._gap += weight * (gap - self._gap)
        if fallen or not self._last:
            self._last = now
        busy = self._slots - self.slots_free + slots
        before = self.amount
        soon = max(self._slots, round(HORIZON / max(self._gap, 1e-6)))
        self.amount = min(soon, self._most) if busy * self._gap < SHORT else 0
        return self.amount - before

    def take(self) -> None:
        """Note that a delivery went into a slot."""
        self.slots_free -= 1
        self._busy += 1

    def worth_asking(self, granted: int, coming: int) -> bool:
        """Whether to ask for `granted` now: for a slot at once, ahead by the half of `amount`."""
        return self.slots_free > coming or 2 * granted >= self.amount

    def is_late(self, now: float) -> bool:
        """Whether no slot has fallen free for so long that nothing should wait for one."""
        return self.slots_free <= 0 and now - self._last > LATE

    def give_up(self) -> int:
        """Ask for nothing ahead until runs are short again; returns what `amount` was."""
        before, self.amount = self.amount, 0
        self._gap, self._gaps = LONGEST, round(1 / _WEIGHT)
        return before

    def forget_slots(self) -> None:
        """Forget what is free or in use, and ask for nothing ahead."""
        self.slots_free = self.amount = self._busy = 0
