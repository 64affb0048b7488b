"""Containers of a user who is not root. Standard library only, as everything of the shepherd.

There is no control group, which only root may make on most hosts: what a container leaves is found
by its first process, with which all of it ends, and what it used is what its keeper waited for.
"""

import os
import time
from collections.abc import Mapping

from scalebox_actors.runtimes.shepherd_cgroup import kill_all
from scalebox_actors.runtimes.shepherd_container import Container
from scalebox_actors.runtimes.shepherd_journal import Json
from scalebox_actors.runtimes.shepherd_kernel import read_text
from scalebox_actors.runtimes.shepherd_program import Program

_TICKS = os.sysconf("SC_CLK_TCK")
_LATER = 0.1
"""Seconds by which clocks may differ that tell when a process began and a file was written."""
_STATE, _BEGAN = 0, 19
"""The places of two words of `/proc/PID/stat`, counted from behind the program's name."""


class RootlessContainer(Container):
    """A container without a control group."""

    def _bond(self) -> "FirstProcess":
        return FirstProcess(self.place)

    @staticmethod
    def end_strays(state: str, known: Mapping[str, Program]) -> None:
        """End containers that nobody knows, and remove what a killed shepherd left of others."""
        living = {run for run, program in known.items() if program.pid}
        for entry in list(os.scandir(state)):
            if entry.is_dir(follow_symlinks=False) and entry.name not in living:
                FirstProcess(entry.path).end_processes()
        Container.end_strays(state, known)

    def over(self, code: int, used: Json) -> Json:
        """Say how it ended; what was used is that of the keeper and all below it."""
        return {**used, **super().over(code, used)}


class FirstProcess:
    """The first process of a container: a bond, for with it all others end."""

    def __init__(self, place: str) -> None:
        self._note = f"{place}/pid"

    def make(self, memory: int | None) -> None:
        """Do nothing: whoever asks for a limit is refused by the node."""

    def set_alarm(self) -> None:
        """Do nothing: nobody tells that memory ran out."""

    def usage(self) -> Json:
        """Return nothing: the keeper's parent knows it."""
        return {}

    def was_full(self) -> bool:
        """Return no: there is no limit."""
        return False

    def end_processes(self) -> bool:
        """Kill what is left of the container and return when it is gone; False if nothing was."""
        return kill_all(self._living)

    def remove(self) -> None:
        """Do nothing: there is nothing to remove."""

    def _living(self) -> list[int]:
        """Return the first process, unless its number is another one's by now."""
        text = read_text(self._note).strip()
        words = read_text(f"/proc/{text}/stat").rpartition(")")[2].split() if text else []
        if not words or words[_STATE] in "ZX":
            return []
        booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        try:
            written = os.stat(self._note).st_mtime  # noqa: PTH116
        except FileNotFoundError:
            return []
        mine = booted + int(words[_BEGAN]) / _TICKS < written + _LATER
        return [int(text)] if mine else []
