"""Directories that are deeper than Python may call itself and a path may be long."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DEPTH = 1100


@contextmanager
def pit(at: Path, *, mode: int = 0o777, depth: int = DEPTH) -> Iterator[Path]:
    """Make one at a path, as a few lines of shell do, with a file of 3 bytes at its ground."""
    at.mkdir()
    top = os.open(at, os.O_RDONLY)
    here = os.dup(top)
    for _ in range(depth):
        os.mkdir("dir", dir_fd=here)
        below = os.open("dir", os.O_RDONLY, dir_fd=here)
        os.fchmod(here, mode)
        os.close(here)
        here = below
    os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=here))
    os.truncate(f"/proc/self/fd/{here}/file", 3)
    os.close(here)
    try:
        yield at
    finally:  # if we failed to, also where it was renamed to: pytest could not
        rest = f"/proc/{os.getpid()}/fd/{top}/dir"
        subprocess.run(["rm", "-rf", "--", rest], check=True)  # noqa: S603, S607
        os.close(top)
