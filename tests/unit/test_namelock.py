"""A node's name is had by one process of a host, for as long as that lives and no longer."""

import errno
import fcntl
import logging
import os
import socket
from pathlib import Path

import pytest
from unit.holders import holding

from scalebox_actors.errors import Unavailable
from scalebox_actors.namelock import held_names, lock_path

HOLD = """
import sys
from pathlib import Path
from scalebox_actors.namelock import held_names
with held_names(Path(sys.argv[1]), "t", ["n1"]):
    print("held", flush=True)
    sys.stdin.read()
"""
FORK = """
import os, sys
from pathlib import Path
from scalebox_actors.namelock import held_names
with held_names(Path(sys.argv[1]), "t", ["n1"]):
    if os.fork():
        sys.stdin.read()
    else:
        print("held", flush=True)
        sys.stdin.read()
"""


def test_a_second_node_of_the_name_is_told_what_to_do(tmp_path: Path) -> None:
    """The sentence has name, topology, process, place and the two ways out."""
    with (
        holding(HOLD, tmp_path / "work") as first,
        pytest.raises(Unavailable) as caught,
        held_names(tmp_path / "work", "t", ["n1"]),
    ):
        pass

    assert str(caught.value) == (
        f"node n1 of topology t is at work already, as process {first.pid}, with work directories "
        f"in {tmp_path}/work; stop that one, or give this one another --name"
    )


def test_other_names_topologies_and_bases_are_free(tmp_path: Path) -> None:
    """Several nodes may share a base, and several bases a host."""
    with (
        held_names(tmp_path / "work", "t", ["n1"]),
        held_names(tmp_path / "work", "t", ["n2", "n3"]),
        held_names(tmp_path / "work", "u", ["n1"]),
        held_names(tmp_path / "other", "t", ["n1"]),
    ):
        held = sorted(path.name for path in (tmp_path / "work").iterdir())

    assert held == [f"node.{end}.lock" for end in ("t.n1", "t.n2", "t.n3", "u.n1")]


def test_of_several_names_all_or_none_are_had(tmp_path: Path) -> None:
    """If the last one is refused the first is free again."""
    with held_names(tmp_path, "t", ["b"]):
        with pytest.raises(Unavailable, match="node b"), held_names(tmp_path, "t", ["a", "b"]):
            pass
        with held_names(tmp_path, "t", ["a"]):
            assert lock_path(tmp_path, "t", "a").exists()


def test_a_name_is_free_after_the_node_has_ended(tmp_path: Path) -> None:
    """Also if it ended with an error; the lock file that stays is in nobody's way."""
    with pytest.raises(ZeroDivisionError), held_names(tmp_path, "t", ["n1"]):
        raise ZeroDivisionError
    with held_names(tmp_path, "t", ["n1"]):
        told = lock_path(tmp_path, "t", "n1").read_text()

    assert told == f"{os.getpid()} {socket.gethostname()}\n"


@pytest.mark.parametrize(
    "program", [pytest.param(HOLD, id="alone"), pytest.param(FORK, id="with-a-forked-child")]
)
def test_the_successor_of_a_killed_node_has_the_name_at_once(program: str, tmp_path: Path) -> None:
    """Not even a child that its function forked, and that lives on, keeps the name."""
    with holding(program, tmp_path) as first:
        first.kill()
        with held_names(tmp_path, "t", ["n1"]):
            told = lock_path(tmp_path, "t", "n1").read_text()

    assert told.split()[0] == str(os.getpid())


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_a_node_works_and_warns(
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A work base on a file system without locks is no reason not to work."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with caplog.at_level(logging.WARNING), held_names(tmp_path, "t", ["n1"]):
        [record] = caplog.records

    assert record.getMessage() == "name_not_locked"
    assert record.__dict__["node"] == "n1"
    assert f"{tmp_path}: {os.strerror(number)}" in record.__dict__["why"]


def test_a_lock_file_of_somebody_else_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a file system that has no locks is worked on without one."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(PermissionError) as caught, held_names(tmp_path, "t", ["n1"]):
        pass

    assert caught.value.filename == str(lock_path(tmp_path, "t", "n1"))
