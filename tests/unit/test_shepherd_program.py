"""What the shepherd knows of processes and of what they print."""

import os
import subprocess
import threading

import pytest

from scalebox_actors.runtimes import shepherd_program
from scalebox_actors.runtimes.shepherd_program import children_of, keepers, own_children


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
