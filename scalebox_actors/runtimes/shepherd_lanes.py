"""Lanes: runs that take turns. Standard library only.

A node may hand over more runs of a lane than there are seats; the next one then begins at the
moment that one has ended, without asking the node. The number of its seat is told to a run in its
environment, since nobody knows it before.
"""

from collections import deque
from collections.abc import Iterator

from scalebox_actors.runtimes.shepherd_journal import Json
from scalebox_actors.runtimes.shepherd_program import Program


class Lanes:
    """Who has which seat of which lane, and who waits for one."""

    def __init__(self) -> None:
        self._taken: dict[str, dict[str, int]] = {}
        """By the lane's name, then by the run's id."""
        self._waiting: dict[str, deque[Program]] = {}

    def sit(self, program: Program, asked: Json) -> bool:
        """Give a run a seat, if its lane has one and nobody waits for it; False: it waits, too."""
        lane = asked.get("lane")
        if lane is None:
            return True
        line = self._waiting.setdefault(lane["name"], deque())
        if not line and self._seat(program, asked):
            return True
        program.asked = asked
        line.append(program)
        return False

    def leave(self, program: Program) -> Iterator[tuple[Program, Json]]:
        """Take a run out of its lane, seat or line; yield those whose turn it is, to be begun."""
        asked, program.asked = program.asked, None
        name = program.lane
        if asked is not None:
            self._waiting[name].remove(program)
        elif name:
            self._taken[name].pop(program.id, None)
        line = self._waiting.get(name, ())
        while line and self._seat(line[0], line[0].asked or {}):
            first = line.popleft()
            asked, first.asked = first.asked, None
            yield first, asked or {}

    def waits(self, name: str) -> bool:
        """Whether somebody waits for a seat of a lane."""
        return bool(self._waiting.get(name))

    def _seat(self, program: Program, asked: Json) -> bool:
        lane = asked["lane"]
        taken = self._taken.setdefault(lane["name"], {})
        free = set(range(lane["seats"])) - set(taken.values())
        if free:
            seat = taken[program.id] = min(free)
            asked["env"].update((name, f"{text}{seat}") for name, text in lane["variables"].items())
        return bool(free)
