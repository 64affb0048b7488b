"""Where a shepherd begins: `python -m`, a state directory and an address. Standard library only."""

import fcntl
import os
import socket
import sys

from scalebox_actors.garbage import look_less
from scalebox_actors.runtimes.shepherd import Shepherd
from scalebox_actors.runtimes.shepherd_container import Container, prepare
from scalebox_actors.runtimes.shepherd_kernel import become_subreaper, enter_mount_namespace
from scalebox_actors.runtimes.shepherd_process import Process

CONTAINERS = "containers"
"""The word that makes it a shepherd of containers, in a mount namespace of its own."""


def main(state: str, address: str, kind: str = "") -> int:
    """Take the state directory, listen, go into the background, serve."""
    lock = os.open(f"{state}/shepherd.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0  # another one is at work, or was started at the same moment
    if kind == CONTAINERS:
        enter_mount_namespace()
        prepare(state)
    if os.path.exists(address):  # noqa: PTH110
        os.unlink(address)  # noqa: PTH108 - of one that was killed; we hold its lock
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    if os.fork():
        os._exit(0)  # whoever started us sees a shepherd that listens
    os.setsid()
    os.chdir("/")
    become_subreaper()
    look_less()
    Shepherd(state, listener, Container if kind == CONTAINERS else Process).run()
    os.unlink(address)  # noqa: PTH108
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
