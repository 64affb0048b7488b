"""Lock files: one process at a time has what a file stands for, and the kernel sees to that.

A lock ends with the last descriptor of its file, so one that was killed leaves nothing behind
that anybody would have to clear away. The file stays: who removes one may remove that of the next
holder. In it stands who has the lock, for those that are refused.
"""

import contextlib
import fcntl
import os
import socket
import time
from pathlib import Path

import msgspec

_POLL = 0.005
_LEAVING = 1.0
"""So long one that was killed may seem to live: its memory goes before its files do."""
_SIGNATURE = 512
_ENDED = ("Z", "X")


class Holder(msgspec.Struct, frozen=True):
    """Who has a lock, as far as the file tells."""

    pid: str = ""
    host: str = ""

    @property
    def elsewhere(self) -> bool:
        """Whether it is on another host, which shares the file."""
        return self.host not in ("", socket.gethostname())

    @property
    def lives(self) -> bool:
        """Whether the process is there; of one on another host nobody can tell here."""
        if self.elsewhere:
            return True
        try:
            state = Path(f"/proc/{self.pid or 0}/stat").read_text("utf-8", "replace")
        except OSError:
            return False
        return state.rpartition(")")[2].split()[0] not in _ENDED

    def __str__(self) -> str:
        """Return it as a part of a sentence."""
        if not self.pid:
            return "another process"
        if self.elsewhere:
            return f"process {self.pid} on {self.host}"
        return f"process {self.pid}" if self.lives else f"what process {self.pid} has left"


class HeldError(Exception):
    """Somebody else has the lock."""

    def __init__(self, holder: Holder) -> None:
        super().__init__(str(holder))
        self.holder = holder


def take(path: Path, *, patience: float) -> int:
    """Return a descriptor that has the lock of a file until it and its copies are closed.

    Raises HeldError if another one has it. Once that one has ended, what it left may need a moment
    to let go of the lock; `patience` says how long. Blocks for that time.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _await(lock, patience)
    except BaseException as error:
        os.close(lock)
        if isinstance(error, OSError):  # it was told of a descriptor
            error.filename = str(path)
        raise
    with contextlib.suppress(OSError):  # a full disk: nobody can read who has it, but it is had
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
    return lock


def is_held(path: Path) -> bool:
    """Whether somebody has the lock of a file; who may not look has to assume it."""
    try:
        with path.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return False


def _await(lock: int, patience: float) -> None:
    began = time.monotonic()
    while not _locked(lock):
        holder, waited = _holder(lock), time.monotonic() - began
        if waited > (_LEAVING if holder.lives else patience):
            raise HeldError(holder)
        time.sleep(_POLL)


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(lock: int) -> Holder:
    """Read who has the lock; while that is just being written down, nobody can tell."""
    pid, host, *_ = [*os.pread(lock, _SIGNATURE, 0).decode("utf-8", "replace").split(), "", ""]
    return Holder(pid, host) if pid.isdigit() else Holder()
