"""What the shepherd knows of processes and of what they print."""

import os
import subprocess
import threading
from pathlib import Path

import pytest

from scalebox_actors.runtimes import shepherd_program
from scalebox_actors.runtimes.shepherd_program import Output, children_of, keepers, own_children


def test_children_of_every_thread_are_seen() -> None:
    """Runc starts its container in whichever thread comes; it must be found to be told to end."""
    started, over = threading.Event(), threading.Event()
    found: list[int] = []

    def start() -> None:
        with subprocess.Popen(["/bin/sleep", "60"]) as child:
            found.append(child.pid)
            started.set()
            over.wait()
            child.kill()

    thread = threading.Thread(target=start)
    thread.start()
    started.wait()
    of_all, of_the_first = children_of(os.getpid()), own_children()
    over.set()
    thread.join()

    assert found[0] in of_all
    assert found[0] not in of_the_first
    assert children_of(found[0]) == []


@pytest.mark.parametrize("other", ["", "_pid_namespace", "_users"])
def test_a_mark_is_believed_of_our_own_processes(
    monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    """Of this user and in this namespace: whoever likes can write it into its environment."""
    mark = {"SBX_RUN": "/nowhere/of/this/test/run"}
    with subprocess.Popen(["/bin/sleep", "60"], env=mark) as child:
        if other:
            real = getattr(shepherd_program, other)
            monkeypatch.setattr(
                shepherd_program,
                other,
                lambda pid: ["0"] if pid in (child.pid, str(child.pid)) else real(pid),
            )
        found = list(keepers("/nowhere/of/this/test"))
        child.kill()

    assert found == ([] if other else [(child.pid, "run")])


def test_a_log_that_was_taken_away_begins_anew(tmp_path: Path) -> None:
    """It is given up once: its descriptor is somebody else's by then."""
    reader, writer = os.pipe2(os.O_NONBLOCK)
    output = Output(str(tmp_path / "log"), reader, 1000)
    os.write(writer, b"a" * 600)
    output.drain()
    (tmp_path / "log").unlink()
    others: list[int] = []
    for part in (b"b" * 500, b"c" * 100):
        os.write(writer, part)
        output.drain()
        others += [os.open(os.devnull, os.O_RDONLY) for _ in range(4)]
    output.close()
    for fd in (writer, *others):
        os.close(fd)  # raises OSError for one that was closed

    assert (tmp_path / "log").read_bytes() == b"c" * 100
    assert (tmp_path / "log.old").read_bytes() == b"b" * 500
