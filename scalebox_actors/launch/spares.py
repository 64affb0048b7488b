"""Empty work directories of a node, used again.

On a disk a new directory costs more than all that is written into it: the file system looks for a
place for it, far from the others, and has to record that. So a few that are empty again are kept.
What is kept is two folders and the name of their node, never a file that a program could have
opened, and only as we made them: with our mode, owner and no attribute.
"""

import contextlib
import itertools
import os
import shutil
import stat
import time
from collections import deque
from pathlib import Path

PREFIX = ".spare."
MOST = 64
INNER = ".new"
"""How the work directory itself is called in one that belongs to no task yet."""
_MODE = stat.S_IFDIR | 0o777


class Spares:
    """The empty work directories below a base, by the name of the folder around each."""

    def __init__(self, base: Path, topology: str) -> None:
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
        """Keep what lies at a reserved path, if it is empty but for `around`."""
        name = path.rpartition("/")[2]
        self._taken.discard(name)
        inner = f"{path}/{INNER}"
        facts = os.lstat(inner)
        same = facts.st_mode == _MODE and facts.st_uid == os.geteuid()
        same = same and not _attributes(inner)
        if not same or self._closed or os.listdir(inner) or {*os.listdir(path)} != around | {INNER}:  # noqa: PTH208
            return False
        self._ready.append(name)
        return True

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
            shutil.rmtree(path, ignore_errors=True)


def prefix(topology: str) -> str:
    """Return how the names of a topology's begin."""
    return f"{PREFIX}{topology}."


def _attributes(folder: str) -> list[str]:
    """Return what a program can have written onto a folder; access lists are among it."""
    try:
        found = os.listxattr(folder)
    except OSError:  # there are none on this file system
        return []
    return [name for name in found if not name.startswith("security.")]  # the host's own
