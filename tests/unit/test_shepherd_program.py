"""What the shepherd knows of processes and of what they print."""

import os
import subprocess
import threading

from scalebox_actors.runtimes.shepherd_program import children_of, own_children


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
