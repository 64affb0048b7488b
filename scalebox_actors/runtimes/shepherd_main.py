"""Where a shepherd begins: `python -m`, a state directory and an address. Standard library only.

It listens where its lock is, in the state directory, so that whoever cannot have the one finds the
other: a node may come back with another environment, and `/run/user` goes with a login.
"""

import contextlib
import fcntl
import os
import socket
import sys
from resource import RLIMIT_NOFILE, getrlimit, setrlimit

from scalebox_actors.garbage import look_less
from scalebox_actors.runtimes.shepherd import Shepherd
from scalebox_actors.runtimes.shepherd_container import Container, prepare
from scalebox_actors.runtimes.shepherd_kernel import (
    become_subreaper,
    enter_mount_namespace,
    enter_user_namespace,
)
from scalebox_actors.runtimes.shepherd_process import Process
from scalebox_actors.runtimes.shepherd_program import Program, keepers
from scalebox_actors.runtimes.shepherd_rootless import RootlessContainer

CONTAINERS = "containers"
"""The word that makes it a shepherd of containers, in namespaces of its own."""
SOCKET = "socket"
"""In the state directory: where it listens."""
OPEN_FILES = 16_384
"""Four for each run that prints. Programs get this limit, too, so it is not the highest one."""


def main(state: str, address: str, kind: str = "") -> int:
    """Take the state directory, listen, go into the background, serve.

    At `address` only where the state directory's file system has no sockets.
    """
    lock = os.open(f"{state}/shepherd.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0  # another one is at work, or was started at the same moment
    programs = _containers(state) if kind == CONTAINERS else Process
    listener, place = _listen(state, address)
    if os.fork():
        os._exit(0)  # whoever started us sees a shepherd that listens
    os.setsid()
    os.chdir("/")
    become_subreaper()
    look_less()
    few, most = getrlimit(RLIMIT_NOFILE)
    setrlimit(RLIMIT_NOFILE, (max(few, min(most, OPEN_FILES)), most))
    Shepherd(state, listener, programs).run()
    os.unlink(place)  # noqa: PTH108
    return 0


def _listen(state: str, address: str) -> tuple[socket.socket, str]:
    """Return a socket on which we listen, and where that is."""
    listener = socket.socket(socket.AF_UNIX)
    folder = os.open(state, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    place = f"{state}/{SOCKET}"
    try:
        _bind(listener, f"/proc/self/fd/{folder}/{SOCKET}")  # an address has 107 bytes at most
    except OSError:
        if not address:
            raise
        place = address
        _bind(listener, place)
    finally:
        os.close(folder)
    listener.listen(64)
    return listener, place


def _bind(listener: socket.socket, address: str) -> None:
    """Take an address, over that of one that was killed; we hold its lock."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(address)  # noqa: PTH108
    mask = os.umask(0o177)  # whoever may connect may run programs as this user
    try:
        listener.bind(address)
    finally:
        os.umask(mask)  # programs have it from us


def _containers(state: str) -> type[Program]:
    """Enter the namespaces in which containers are made, and return which kind they are."""
    rootless = os.getuid() != 0
    if rootless:
        # Of a shepherd that was killed: only in their own namespace can we look after them.
        keeper = next((pid for pid, _ in keepers(state)), 0)
        enter_user_namespace(keeper)
    enter_mount_namespace()
    prepare(state)
    return RootlessContainer if rootless else Container


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
