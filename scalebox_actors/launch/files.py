"""Single files of a run: written where a program may have been, read without believing it.

Text and plain calls of the system: with `Path` they take longer than what they do. Everything here
blocks.
"""

import errno
import os
import stat
from pathlib import Path

from scalebox_actors.errors import BadOutput
from scalebox_actors.limits import OUTPUT_FILE_BYTES

_TEXTS = frozenset({"auxout.txt", "custom-out.txt", "user-file.txt"})
"""Texts are cut, not refused: the end of one that is too long is kept."""


def overwrite(path: str, data: bytes) -> None:
    """Write into an empty file of ours, not emptied again: file systems sync such a one."""
    _write_all(os.open(path, os.O_WRONLY | os.O_CLOEXEC), data)


def rewrite(path: str, data: bytes) -> None:
    """Write a file of ours anew; what there was more of it is cut off afterwards.

    Raises OSError if it is no file of ours any more: something may have outlived its program.
    """
    handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
            raise OSError(errno.EEXIST, "not the file that was kept", path)
        _write_whole(handle, data)
        os.ftruncate(handle, len(data))
    finally:
        os.close(handle)


def write_new(path: str, data: bytes) -> None:
    """Write a new file; what has its name goes, and a link of a program's is not followed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        handle = os.open(path, flags, 0o666)
    except FileExistsError:
        os.unlink(path)  # noqa: PTH108
        handle = os.open(path, flags, 0o666)
    _write_all(handle, data)


def _write_all(handle: int, data: bytes) -> None:
    try:
        _write_whole(handle, data)
    finally:
        os.close(handle)


def _write_whole(handle: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(handle, left) :]


def fill(parent: str, path: str, data: bytes) -> None:
    """Write a file that was made ahead in a run's directory, and give it its name."""
    made = f"{parent}/.{path.rpartition('/')[2]}"
    overwrite(made, data)
    os.rename(made, path)  # noqa: PTH104


def read_regular(path: Path, name: str) -> bytes:
    """Read one file that a program wrote, believing nothing about it."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise BadOutput(f"{name}: cannot be read: {error.strerror}") from error
    try:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            raise BadOutput(f"{name}: is not a regular file")
        if facts.st_size > OUTPUT_FILE_BYTES and name not in _TEXTS:
            raise BadOutput(
                f"{name}: has {facts.st_size} bytes; at most {OUTPUT_FILE_BYTES} are read"
            )
        with os.fdopen(handle, "rb", closefd=False) as file:
            file.seek(max(0, facts.st_size - OUTPUT_FILE_BYTES))
            return file.read(OUTPUT_FILE_BYTES)
    finally:
        os.close(handle)
