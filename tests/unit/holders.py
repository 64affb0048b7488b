"""Processes that hold a lock, for tests of locks."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def holding(program: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a program that takes a lock, and return once it has it; end it and what it left."""
    process = subprocess.Popen(  # noqa: S603 - this Python with a program of the test's
        [sys.executable, "-c", program, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()
