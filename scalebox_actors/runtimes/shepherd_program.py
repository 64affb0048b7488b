"""What the shepherd looks after: a run with its outputs and its end, of whatever kind.

A plain process (shepherd_process.py) or a container (shepherd_container.py). Standard library
only, as everything the shepherd is made of.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping

from scalebox_actors.runtimes.shepherd_journal import Json
from scalebox_actors.runtimes.shepherd_kernel import read_text

CHUNK = 65_536
CHUNKS_AT_ONCE = 16
MARK = "SBX_RUN"
"""In the environment of what we start, state directory and id: which run a process belongs to."""
LOOK_AGAIN = 0.01
KEPT = ("name", "id", "labels", "attempt", "work", "time", "box", "exit")
"""Of what was asked, and learned: what a following shepherd must know."""


PID = "shepherd.pid"
"""In the state directory: the shepherd that drains what runs print."""


class Output:
    """One output of a program, drained into a file of which the newest part is kept."""

    def __init__(self, path: str, pipe: int, bound: int) -> None:
        self.path, self.pipe, self.size = path, pipe, size_of(path)
        self._half, self._held, self._file = max(bound // 2, 1), 0, -1

    def drain(self) -> bool:
        """Take what is there, but not for ever; False at the end of the output."""
        for _ in range(CHUNKS_AT_ONCE):
            try:
                data = os.read(self.pipe, CHUNK)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._keep(data)
        return True

    def _keep(self, data: bytes) -> None:
        self.size += len(data)
        try:
            if self._file >= 0 and self._held >= self._half:
                full, self._file = self._file, -1  # its number may be another's in a moment
                os.close(full)
                with contextlib.suppress(OSError):  # somebody has taken the log away
                    os.rename(self.path, self.path + ".old")  # noqa: PTH104
            if self._file < 0:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                self._file = os.open(self.path, flags, 0o600)
                self._held = os.fstat(self._file).st_size  # of a shepherd before us
            self._held += os.write(self._file, data)
        except OSError:
            return  # a full disk: the program goes on, its log has a gap

    def close(self) -> None:
        """Give both descriptors back."""
        self.size = max(self.size, size_of(self.path))  # while there was no shepherd
        for fd in (self.pipe, self._file):
            if fd >= 0:
                os.close(fd)
        self.pipe = self._file = -1


class Program:
    """One run: something that was started, or that has ended."""

    def __init__(self, state: str, asked: Json) -> None:
        self.state = state
        self.kept = {key: asked[key] for key in KEPT if key in asked}
        self.name, self.id, self.work = str(asked["name"]), str(asked["id"]), str(asked["work"])
        self.labels: Mapping[str, str] = asked["labels"]
        self.attempt, self.started = int(asked["attempt"]), float(asked["time"])
        self.lane = str((asked.get("lane") or {}).get("name", ""))
        self.asked: Json | None = None
        """What is wanted of one that waits for its turn."""
        self.pid = 0
        self.outputs: tuple[Output, ...] = ()
        self.exit: Json | None = asked.get("exit")
        self.kill_at = 0.0
        self.due: tuple[float, Callable[[], None]] | None = None
        """What is to be tried again, and when."""
        self.then: list[Callable[[], None]] = []
        """What to do once it has ended: answers that wait for that."""

    def told(self) -> Json:
        """Describe the run as the node wants to know it."""
        return {
            "name": self.name,
            "id": self.id,
            "labels": self.labels,
            "exit": self.exit,
            "waits": self.asked is not None,
            "started": self.started,
        }

    @property
    def mark(self) -> str:
        """What its processes have in their environment."""
        return f"{self.state}/{self.id}"

    def log(self, output: str) -> str:
        """Return where an output is kept."""
        return f"{self.state}/{self.id}.{output}"

    @staticmethod
    def end_strays(state: str, known: Mapping[str, "Program"]) -> None:
        """End what runs in a state directory and has not been resumed."""
        raise NotImplementedError

    def begin(self, asked: Json) -> None:
        """Start it, or settle at once that it cannot be; raises OSError for what may pass."""
        raise NotImplementedError

    def resume(self, pid: int) -> bool:
        """Take over a process that an earlier shepherd started for it; False: it must go."""
        raise NotImplementedError

    def terminate(self) -> None:
        """Ask it to end."""
        raise NotImplementedError

    def kill(self) -> None:
        """End it."""
        raise NotImplementedError

    def sweep(self) -> None:
        """End what it left running, before its own number can be somebody else's."""
        raise NotImplementedError

    def over(self, code: int, used: Json) -> Json:
        """Take down what is left of it and say how it ended; called once, when `pid` is gone."""
        raise NotImplementedError

    def abandoned(self) -> Json:
        """Say how it ended while there was no shepherd."""
        raise NotImplementedError

    def forget(self) -> None:
        """Remove its files."""
        raise NotImplementedError

    def later(self, step: Callable[[], None]) -> None:
        """Let something be tried again in a moment, unless it has ended by then."""
        self.due = (time.monotonic() + LOOK_AGAIN, step)

    def end(self, **fields: object) -> Json:
        """Say that and how it ended, just now."""
        return {"started": self.started, "finished": time.time(), **fields}


def marked(prefix: bytes) -> Iterator[tuple[int, str]]:
    """Yield the processes of a state directory's runs, each with the id of its run."""
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit() and (mark := mark_of(int(name))).startswith(prefix):
            yield int(name), os.fsdecode(mark[len(prefix) :])


def keepers(state: str) -> Iterator[tuple[int, str]]:
    """Yield what a shepherd of this state directory started, each with the id of its run.

    Anybody can have a mark in its environment: the programs in containers, and other users of this
    host. They are in other pid namespaces, or other users; none of them is waited for or joined.
    """
    ours = (_pid_namespace("self"), [str(os.getuid())] * 4)
    for pid, run in marked(f"{state}/".encode()):
        if (_pid_namespace(str(pid)), _users(pid)) == ours:
            yield pid, run


def _pid_namespace(pid: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")  # noqa: PTH115
    except OSError:
        return ""


def _users(pid: int) -> list[str]:
    """Return whose process it is: real, effective, saved and by its files; `su` has several."""
    lines = read_text(f"/proc/{pid}/status").splitlines()
    return next((line.split()[1:] for line in lines if line.startswith("Uid:")), [])


def mark_of(pid: int) -> bytes:
    """Return state directory and id of the run that a process belongs to, or nothing."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123
            entries = file.read().split(b"\0")
    except OSError:
        return b""
    prefix = f"{MARK}=".encode()
    return next((e[len(prefix) :] for e in entries if e.startswith(prefix)), b"")


def children_of(pid: int) -> list[int]:
    """Return the children of a process, whichever thread has them; none if nobody tells."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208
    except OSError:
        return []
    return [child for thread in threads for child in _children(pid, thread)]


def own_children() -> list[int]:
    """Return the children of this process, which has one thread: every end asks for them."""
    return _children(os.getpid(), str(os.getpid()))


def _children(pid: int, thread: str) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:  # noqa: PTH123
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def size_of(log: str) -> int:
    """Return how much of an output is on disk."""
    size = 0
    for path in (log, log + ".old"):
        try:
            size += os.stat(path).st_size  # noqa: PTH116
        except OSError:
            continue
    return size


def why(error: Exception) -> str:
    """Return what went wrong as text that can be sent, whatever bytes are in it."""
    words = f"{type(error).__name__}: {error}"
    if isinstance(error, OSError):
        words = f"{error.filename}: {error.strerror}"
    return sendable(words)


def sendable(text: str) -> str:
    """Return text without what is no text: arguments may hold any bytes."""
    return text.encode("utf-8", "replace").decode()


def unlink(*paths: str) -> None:
    """Remove files; those that are not there are fine."""
    for path in paths:
        try:
            os.unlink(path)  # noqa: PTH108
        except OSError:
            continue
