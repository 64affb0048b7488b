"""Lanes: runs that take turns. Standard library only.

A node may hand over more runs of a lane than there are seats; the next one then begins at the
moment that one has ended, without asking the node. The number of its seat is told to a run in its
environment, since nobody knows it before.
"""

from collections import deque
from collections.abc import Iterator

from scalebox_actors.runtimes.shepherd_journal import Json
from scalebox_actors.runtimes.shepherd_program import Program


class Lane:
    """Who has which seat, and who waits for one."""

    def __init__(self) -> None:
        self.seats = 0
        """As many as the newest run says: a node may come back with more or fewer."""
        self.taken: dict[str, int] = {}
        """By the run's id."""
        self.line: deque[Program] = deque()

    def seat(self, program: Program, asked: Json) -> bool:
        """Give a run the first seat that is free, and tell it which; False if there is none."""
        free = set(range(self.seats)) - set(self.taken.values())
        if not free or len(self.taken) >= self.seats:
            return False
        seat = self.taken[program.id] = min(free)
        variables = asked["lane"]["variables"].items()
        asked["env"].update((name, f"{text}{seat}") for name, text in variables)
        return True


class Lanes:
    """All lanes of a shepherd, by name."""

    def __init__(self) -> None:
        self._all: dict[str, Lane] = {}

    def sit(self, program: Program, asked: Json) -> bool:
        """Give a run a seat, if its lane has one and nobody waits for it; False: it waits, too."""
        if not program.lane:
            return True
        lane = self._all.setdefault(program.lane, Lane())
        lane.seats = asked["lane"]["seats"]
        if not lane.line and lane.seat(program, asked):
            return True
        program.asked = asked
        lane.line.append(program)
        return False

    def leave(self, program: Program) -> None:
        """Take a run out of its lane, seat or line."""
        lane = self._all.get(program.lane)
        if lane is None:
            return
        if program.asked is not None:
            program.asked = None
            lane.line.remove(program)
        lane.taken.pop(program.id, None)
        if not (lane.taken or lane.line):
            del self._all[program.lane]

    def put_back(self, program: Program, asked: Json) -> None:
        """Let a run that could not be begun in its turn wait again, before all others."""
        lane = self._all[program.lane]
        del lane.taken[program.id]
        program.asked = asked
        lane.line.appendleft(program)

    def next(self, name: str) -> Iterator[tuple[Program, Json]]:
        """Yield those of a lane whose turn it is, to be begun."""
        while (lane := self._all.get(name)) and lane.line:
            first = lane.line[0]
            asked = first.asked or {}
            if not lane.seat(first, asked):
                return
            lane.line.popleft()
            first.asked = None
            yield first, asked

    def waits(self, name: str) -> bool:
        """Whether somebody waits for a seat of a lane."""
        lane = self._all.get(name)
        return lane is not None and bool(lane.line)
