"""Work directories of a node, used again.

On a disk a new directory costs more than all that is written into it: the file system looks for a
place for it, far from the others, and has to record that. So a few that are empty again are kept:
two folders and the name of their node, only as we made them, with our mode, owner and no attribute.

A file that a program could have opened is not kept, for another task's message will be in it. Only
where nothing keeps programs apart, as plain processes of one user, the two files of the message are
kept as well and written anew: to make and remove them is most of what such a directory costs.
"""

import contextlib
import itertools
import os
import stat
import time
from collections import deque
from pathlib import Path

from scalebox_actors.limits import KIB
from scalebox_actors.trees import clear_tree

PREFIX = ".spare."
MOST = 64
INNER = "1"
"""How the work directory itself is called in one: as most tasks want it, at their first attempt."""
INPUTS = frozenset({"body", "headers.json"})
"""The files of a message."""
LARGEST = 64 * KIB
"""Bytes of a file that is kept."""
_MODE = stat.S_IFDIR | 0o777


class Spares:
    """The work directories that are kept below a base, by the name of the folder around each."""

    def __init__(self, base: Path, topology: str, *, with_files: bool = False) -> None:
        self.with_files = with_files
        """Whether the files of the message are kept."""
        self._base = base
        # An earlier life of the node may have left some: no name is given twice.
        self._names = (f"{prefix(topology)}{time.time_ns()}.{n}" for n in itertools.count())
        self._ready: deque[str] = deque()
        self._taken: set[str] = set()
        """Names of those that are being emptied; they are ours, but not ready."""
        self._closed = False

    def holds(self, name: str) -> bool:
        """Whether one of that name is kept."""
        return name in self._taken or name in self._ready

    def reserve(self) -> str | None:
        """Return the path for a further one, or None if there are enough."""
        if self._closed or len(self._ready) + len(self._taken) >= MOST:
            return None
        name = next(self._names)
        self._taken.add(name)
        return f"{self._base}/{name}"

    def put(self, path: str, around: frozenset[str]) -> bool:
        """Keep what lies at a reserved path, if nothing else is in it and `around` is beside it.

        Raises OSError where a file is missing.
        """
        name = path.rpartition("/")[2]
        self._taken.discard(name)
        inner = f"{path}/{INNER}"
        files = INPUTS if self.with_files else frozenset[str]()
        same = _is_ours(inner, os.lstat(inner), _MODE)
        same = same and all(_can_be_kept(f"{inner}/{file}") for file in files)
        same = same and {*os.listdir(inner)} == files and {*os.listdir(path)} == around | {INNER}  # noqa: PTH208
        kept = same and not self._closed
        if kept:
            self._ready.append(name)
        return kept

    def forget(self, path: str) -> None:
        """Keep nothing at a reserved path."""
        self._taken.discard(path.rpartition("/")[2])

    def take(self) -> str | None:
        """Return the path of one, which is the caller's from now on."""
        with contextlib.suppress(IndexError):
            return f"{self._base}/{self._ready.popleft()}"
        return None

    def close(self) -> None:
        """Remove them, and keep none any more."""
        self._closed = True
        while (path := self.take()) is not None:
            clear_tree(Path(path))


def prefix(topology: str) -> str:
    """Return how the names of a topology's begin."""
    return f"{PREFIX}{topology}."


def _is_ours(path: str, facts: os.stat_result, mode: int) -> bool:
    return facts.st_mode == mode and facts.st_uid == os.geteuid() and not _attributes(path)


def _can_be_kept(file: str) -> bool:
    """Whether a file is as we made it, small, and has no second name."""
    facts = os.lstat(file)
    mode = stat.S_IFREG | 0o600 | facts.st_mode & 0o066  # what others may depends on the umask
    return facts.st_nlink == 1 and facts.st_size <= LARGEST and _is_ours(file, facts, mode)


def _attributes(path: str) -> list[str]:
    """Return what a program can have written onto something; access lists are among it."""
    try:
        found = os.listxattr(path)
    except OSError:  # there are none on this file system
        return []
    return [name for name in found if not name.startswith("security.")]  # the host's own
