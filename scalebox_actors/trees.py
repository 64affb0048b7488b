"""Trees of files that programs made: removed and measured, however deep, through no link.

A few lines of shell make a directory that is deeper than Python may call itself, and deeper than
a path may be long. So one descriptor stands in the tree, goes down by names and up by `..`, which
must be where it came from: who moves directories meanwhile leads nobody elsewhere.

Everything here blocks.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

_ENTER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PASS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ROOT = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def remove_tree(path: Path) -> None:
    """Remove what is at `path`, whose folder is ours; see `remove_at`."""
    with contextlib.suppress(FileNotFoundError), standing_in(str(path.parent)) as folder:
        remove_at(folder, path.name)


def clear_tree(path: Path) -> None:
    """Remove what can be removed of what is at `path`; what cannot stays, and nobody waits for it.

    That may be the files of a container's root, which another user's node has no right to.
    """
    with contextlib.suppress(OSError):
        remove_tree(path)


def remove_at(folder: int, name: str) -> None:
    """Remove a file, or a directory with all that is in it; absent is fine.

    We grant ourselves what directories withhold. What cannot be removed stays, all else goes, and
    the first error is raised.
    """
    try:
        facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISDIR(facts.st_mode):
            os.unlink(name, dir_fd=folder)
            return
    except FileNotFoundError:
        return
    faults = _Faults()
    waiting = [[name]]
    with contextlib.closing(_Walk(folder, grant=True)) as walk:
        while True:
            if waiting[-1]:
                if faults.attempt(walk.down, waiting[-1].pop()):
                    waiting.append(_emptied(walk.folder, faults))
                continue
            waiting.pop()
            if not waiting:
                break
            faults.attempt(os.rmdir, walk.up(), walk.folder)
    faults.tell()


def sizes_at(folder: int, name: str) -> Generator[int, None, None]:
    """Yield the bytes of a file, or of each entry below a directory; 0 for what is no file.

    Raises OSError if it is not there. What may not be looked at is left out.
    """
    facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if not stat.S_ISDIR(facts.st_mode):
        yield _bytes(facts)
        return
    waiting = [[name]]
    with contextlib.closing(_Walk(folder, grant=False)) as walk:
        while True:
            if waiting[-1]:
                with contextlib.suppress(OSError):
                    walk.down(waiting[-1].pop())
                    waiting.append([])
                    yield from _measured(walk.folder, waiting[-1])
                continue
            waiting.pop()
            if not waiting:
                break
            walk.up()


@contextlib.contextmanager
def standing_in(root: str, names: Sequence[str] = ()) -> Iterator[int]:
    """Open a directory, by names from one that no program may have put there.

    Raises NotADirectoryError where the way leads through a link.
    """
    here = os.open(root, _ROOT)
    try:
        for name in names:
            below = os.open(name, _PASS, dir_fd=here)
            os.close(here)
            here = below
        yield here
    finally:
        os.close(here)


class _Walk:
    """A place in a tree, and the way back from it; of all descriptors it keeps one."""

    def __init__(self, base: int, *, grant: bool) -> None:
        self.folder = base
        self._base, self._grant = base, grant
        self._here = (0, 0)
        self._way: list[tuple[str, tuple[int, int]]] = []
        """The names by which it came, and the directories in which they are."""

    def down(self, name: str) -> None:
        """Enter a directory; raises OSError, and stays, where that cannot be."""
        below = self._opened(name)
        facts = os.fstat(below)
        if self._grant and facts.st_mode & stat.S_IRWXU != stat.S_IRWXU:
            with contextlib.suppress(OSError):  # it is somebody else's: then see what can be done
                os.fchmod(below, stat.S_IMODE(facts.st_mode) | stat.S_IRWXU)
        self._way.append((name, self._here))
        self._stand_in(below, (facts.st_dev, facts.st_ino))

    def up(self) -> str:
        """Leave the directory, and return its name in the one above."""
        name, came_from = self._way.pop()
        if not self._way:
            self._stand_in(self._base, came_from)
            return name
        above = os.open("..", _ENTER, dir_fd=self.folder)
        facts = os.fstat(above)
        if (facts.st_dev, facts.st_ino) != came_from:
            os.close(above)
            raise OSError(errno.ESTALE, "a directory was moved away", name)
        self._stand_in(above, came_from)
        return name

    def close(self) -> None:
        """Leave the tree."""
        self._stand_in(self._base, (0, 0))

    def _opened(self, name: str) -> int:
        try:
            return os.open(name, _ENTER, dir_fd=self.folder)
        except PermissionError:
            if not self._grant:
                raise
        place = os.open(name, _PASS, dir_fd=self.folder)
        try:
            # By its descriptor: nobody can have put a link in its place meanwhile.
            os.chmod(f"/proc/self/fd/{place}", stat.S_IRWXU)  # noqa: PTH101
            return os.open(".", _ENTER, dir_fd=place)
        finally:
            os.close(place)

    def _stand_in(self, folder: int, identity: tuple[int, int]) -> None:
        if self.folder != self._base:
            os.close(self.folder)
        self.folder, self._here = folder, identity


class _Faults:
    """What went wrong so far: the first of it is told."""

    def __init__(self) -> None:
        self._first: OSError | None = None

    def attempt(self, act: Callable[..., object], name: str, folder: int | None = None) -> bool:
        """Do something to a name, in a folder if one is given; whether that was done."""
        try:
            if folder is None:
                act(name)
            else:
                act(name, dir_fd=folder)
        except OSError as error:
            if self._first is None and not isinstance(error, FileNotFoundError):
                self._first = error
            return False
        return True

    def tell(self) -> None:
        """Raise the first fault."""
        if self._first is not None:
            raise self._first


def _emptied(folder: int, faults: _Faults) -> list[str]:
    """Remove the files in a directory, and return the names of the directories in it."""
    below: list[str] = []
    entries: list[os.DirEntry[str]] = []
    faults.attempt(lambda _: entries.extend(os.scandir(folder)), ".")
    for entry in entries:
        try:
            is_folder = entry.is_dir(follow_symlinks=False)
        except OSError:  # it has no type in its directory, and cannot be asked for it
            is_folder = False
        if is_folder:
            below.append(entry.name)
        else:
            faults.attempt(os.unlink, entry.name, folder)
    return below


def _measured(folder: int, below: list[str]) -> Iterator[int]:
    """Yield the sizes of what is in a directory, and collect the directories in it."""
    with os.scandir(folder) as entries:
        for entry in entries:
            size = 0
            with contextlib.suppress(OSError):  # it has just gone
                if entry.is_dir(follow_symlinks=False):
                    below.append(entry.name)
                else:
                    size = _bytes(entry.stat(follow_symlinks=False))
            yield size


def _bytes(facts: os.stat_result) -> int:
    return facts.st_size if stat.S_ISREG(facts.st_mode) else 0
