"""The shepherd's memory on a disk that is full: what was written before is never lost."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scalebox_actors.runtimes.shepherd_journal import Journal

RUNS = [{"run": {"name": f"n{number}"}} for number in range(100)]


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes: the last write is a short one, as on a full disk."""
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))


def test_a_journal_that_cannot_begin_anew_goes_on(tmp_path: Path) -> None:
    """A half of it is none; the old one stays, is written to, and no descriptor is left open."""
    path = str(tmp_path / "journal")
    journal = Journal(path)
    journal.begin(RUNS)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with room_for(1000), pytest.raises(OSError, match="File too large"):
        journal.begin(RUNS)
    journal.go_on()
    journal.write(end="n1", exit={})

    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert Journal(path).found == [*RUNS, {"end": "n1", "exit": {}}]
    assert os.listdir(tmp_path) == ["journal"]  # noqa: PTH208


def test_a_first_one_that_cannot_begin_goes_on_too(tmp_path: Path) -> None:
    """A shepherd that follows a killed one keeps what that one wrote, half a line and all."""
    path = tmp_path / "journal"
    path.write_bytes(b'{"run":{"name":"a"}}\n{"run":{"na')
    journal = Journal(str(path))
    with room_for(10), pytest.raises(OSError, match="File too large"):
        journal.begin(RUNS)
    journal.go_on()
    journal.write(gone=["a"])

    assert Journal(str(path)).found == [{"run": {"name": "a"}}, {"gone": ["a"]}]


def test_half_a_line_takes_no_other_with_it(tmp_path: Path) -> None:
    """A line that did not fit is lost, and that is all."""
    path = str(tmp_path / "journal")
    journal = Journal(path)
    journal.begin(RUNS[:1])
    with room_for(journal.size + 5):
        journal.write(end="lost", exit={})
    with room_for(journal.size + 1):
        journal.write(end="lost", exit={})
        journal.write(end="lost", exit={})
    journal.write(end="n0", exit={})
    journal.write(gone=["n0"])

    assert Journal(path).found == [RUNS[0], {"end": "n0", "exit": {}}, {"gone": ["n0"]}]
