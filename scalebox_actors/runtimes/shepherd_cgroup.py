"""The control group of one run: its memory limit, and what the run has used.

The container runtime makes a group of its own inside and removes it with the container; ours
around it still knows afterwards what was used. Both versions of control groups are spoken; of a
hybrid hierarchy the first. Standard library only, as everything the shepherd is made of.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from functools import cache
from typing import Protocol

from scalebox_actors.runtimes.cgroup_files import (
    V1,
    V2,
    Reading,
    hand_down,
    number,
    pairs,
    put,
    read_v1,
    read_v2,
)
from scalebox_actors.runtimes.shepherd_journal import Json
from scalebox_actors.runtimes.shepherd_kernel import read_text

ROOT = "/sys/fs/cgroup"
PARENT = "sbx"
INNER = "c"
"""The group of the container itself, inside ours."""
MEASURED = ("memory", "cpuacct")
"""The controllers of version 1 that tell what was used; `blkio` forgets what children moved."""
REACHED = ("max_usage", "limit")
AT_ONCE = 64 * 4096
"""Bytes for which the kernel asks a group at once: with less room a limit is reached."""
PATIENCE = 2.0
"""So long processes may take to die once they were killed."""


def is_unified(root: str = ROOT) -> bool:
    """Whether this host has version 2 only."""
    return os.path.exists(f"{root}/cgroup.controllers")  # noqa: PTH110


class Bond(Protocol):
    """What holds all processes of a container together: its control group, or else its first."""

    def make(self, memory: int | None) -> None:
        """Make it, with a limit of memory; raises OSError."""

    def set_alarm(self) -> None:
        """Let it be counted from now on how often memory ran out."""

    def usage(self) -> Json:
        """Return what was used, as far as it tells."""

    def was_full(self) -> bool:
        """Whether its limit of memory was ever reached, if nobody else could count that."""

    def end_processes(self) -> bool:
        """Kill what is left in it and return when it is gone; False if nothing was left."""

    def remove(self) -> None:
        """Remove it; safe to repeat."""


class Group:
    """The control group of one run: a bond."""

    def __init__(self, name: str, root: str = ROOT) -> None:
        self._path, self._root = f"{PARENT}/{name}", root
        self._unified, self._hierarchies = layout(root)
        self._alarm, self._removed = -1, False

    def make(self, memory: int | None) -> None:
        """Make it, with a limit of memory and none of swap; raises OSError."""
        if self._unified:
            self._make_unified(memory)
            return
        for controller in MEASURED:
            place = f"{self._root}/{controller}"
            with contextlib.suppress(FileNotFoundError):  # this kernel does not have it
                _mkdir(f"{place}/{PARENT}", f"{place}/{self._path}")
        if memory is not None:
            self._write("memory/", "memory.limit_in_bytes", memory)
            with contextlib.suppress(OSError):  # a kernel that does not count swap
                self._write("memory/", "memory.memsw.limit_in_bytes", memory)
            self.set_alarm()

    def _make_unified(self, memory: int | None) -> None:
        _mkdir(f"{self._root}/{PARENT}", f"{self._root}/{self._path}")
        for place in (self._root, f"{self._root}/{PARENT}"):
            hand_down(place)
        if memory is not None:
            self._write("", "memory.max", memory)
            with contextlib.suppress(OSError):
                self._write("", "memory.swap.max", 0)

    def set_alarm(self) -> None:
        """Let version 1 count from now on how often memory ran out; version 2 always does."""
        if self._unified or self._alarm >= 0:
            return
        place = f"{self._root}/memory/{self._path}"
        alarm = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            control = os.open(f"{place}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
            try:
                put(f"{place}/cgroup.event_control", f"{alarm} {control}")
            finally:
                os.close(control)
        except OSError:  # a kernel without it: running out of memory looks like a kill
            os.close(alarm)
            return
        self._alarm = alarm

    def usage(self) -> Json:
        """Return what was used, as far as this host tells, and whether memory ran out."""
        told = {**self._reading()._asdict(), "out_of_memory": self._out_of_memory() or None}
        return {name: value for name, value in told.items() if value is not None}

    def _reading(self) -> Reading:
        if self._unified:
            return read_v2(self._texts("", V2))
        files: dict[str, str] = {}
        for controller in MEASURED:
            files |= self._texts(f"{controller}/", V1[controller])
        return read_v1(files)

    def _out_of_memory(self) -> bool:
        if not self._unified:
            return self._alarmed()
        return bool(number(pairs(self._text("", "memory.events")).get("oom_kill")))

    def was_full(self) -> bool:
        """Whether memory came to its limit in version 1, which counts ends only for a listener."""
        if self._unified:
            return False
        peak, limit = (number(self._text("memory/", f"memory.{name}_in_bytes")) for name in REACHED)
        return peak is not None and limit is not None and peak + AT_ONCE > limit

    def _alarmed(self) -> bool:
        if self._alarm < 0:
            return False
        try:
            return os.eventfd_read(self._alarm) > 0
        except BlockingIOError:
            return False

    def end_processes(self) -> bool:
        """Kill what is left in it and return when it is gone; False if nothing was left."""
        return kill_all(self._pids)

    def remove(self) -> None:
        """Remove it, with what the container runtime left in it; safe to repeat."""
        if self._alarm >= 0:
            os.close(self._alarm)
            self._alarm = -1
        if self._removed:
            return
        for hierarchy in self._hierarchies:
            path = f"{hierarchy}/{self._path}"
            if not _rmdir(path) and _rmdir(f"{path}/{INNER}"):
                _rmdir(path)
        self._removed = True

    def _pids(self) -> list[int]:
        where = "" if self._unified else "memory/"
        found: list[int] = []
        for name in ("cgroup.procs", f"{INNER}/cgroup.procs"):
            found += [int(word) for word in self._text(where, name).split() if int(word) > 1]
        return found

    def _write(self, hierarchy: str, name: str, value: int) -> None:
        put(f"{self._root}/{hierarchy}{self._path}/{name}", str(value))

    def _texts(self, hierarchy: str, names: tuple[str, ...]) -> dict[str, str]:
        """Return the texts of files by their names, without those that say nothing."""
        texts = {name: self._text(hierarchy, name) for name in names}
        return {name: text for name, text in texts.items() if text}

    def _text(self, hierarchy: str, name: str) -> str:
        return read_text(f"{self._root}/{hierarchy}{self._path}/{name}")


def kill_all(find: Callable[[], list[int]]) -> bool:
    """Kill what is found until there is nothing; False if nothing was there."""
    found, deadline = False, time.monotonic() + PATIENCE
    while pids := find():
        found = True
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            break
        time.sleep(0.005)
    return found


@cache
def layout(root: str = ROOT) -> tuple[bool, tuple[str, ...]]:
    """Return whether this host has version 2 only, and where its hierarchies are mounted."""
    if is_unified(root):
        return True, (root,)
    with os.scandir(root) as entries:  # links are other names of the same
        found = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    return False, tuple(found)


def groups_named(prefix: str, root: str = ROOT) -> set[str]:
    """Return the names of those groups that begin with `prefix`: what a killed shepherd left."""
    found: set[str] = set()
    for place in layout(root)[1]:
        with contextlib.suppress(OSError), os.scandir(f"{place}/{PARENT}") as entries:
            found |= {entry.name for entry in entries if entry.name.startswith(prefix)}
    return found


def _mkdir(parent: str, path: str) -> None:
    try:
        os.mkdir(path)  # noqa: PTH102
    except FileExistsError:
        return
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):  # another shepherd was as quick
            os.mkdir(parent)  # noqa: PTH102 - the first of our groups on this host
        os.mkdir(path)  # noqa: PTH102


def _rmdir(path: str) -> bool:
    """Whether a group is gone now."""
    try:
        os.rmdir(path)  # noqa: PTH106
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
