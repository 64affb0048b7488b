"""One program that the shepherd looks after: its process, its outputs, its end.

Standard library only, as everything the shepherd is made of.
"""

import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable, Mapping

from scalebox_actors.runtimes.shepherd_journal import Json

CHUNK = 65_536
CHUNKS_AT_ONCE = 16
MARK = "SBX_RUN"
"""In the environment of every program, state directory and name: whose descendant a process is."""


class Output:
    """One output of a program, drained into a file of which the newest part is kept."""

    def __init__(self, path: str, pipe: int, bound: int) -> None:
        self.path, self.pipe, self.size = path, pipe, 0
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
                os.close(self._file)
                os.rename(self.path, self.path + ".old")  # noqa: PTH104
                self._file, self._held = -1, 0
            if self._file < 0:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                self._file = os.open(self.path, flags, 0o600)
            self._held += os.write(self._file, data)
        except OSError:
            return  # a full disk: the program goes on, its log has a gap

    def close(self) -> None:
        """Give both descriptors back."""
        for fd in (self.pipe, self._file):
            if fd >= 0:
                os.close(fd)
        self.pipe = self._file = -1


class Program:
    """One run: a program that was started, or one that has ended."""

    def __init__(self, asked: Json) -> None:
        self.kept = {key: asked[key] for key in ("name", "id", "labels", "attempt", "work", "time")}
        self.name, self.work = str(asked["name"]), str(asked["work"])
        self.labels: Mapping[str, str] = asked["labels"]
        self.attempt, self.started = int(asked["attempt"]), float(asked["time"])
        self.pid = 0
        self.outputs: tuple[Output, ...] = ()
        self.exit: Json | None = asked.get("exit")
        self.kill_at = 0.0
        self.then: list[Callable[[], None]] = []
        """What to do once it has ended: answers that wait for that."""

    def told(self) -> Json:
        """Describe the run as the node wants to know it."""
        return {
            "name": self.name,
            "id": self.kept["id"],
            "labels": self.labels,
            "exit": self.exit,
        }

    def kill(self, number: int) -> None:
        """Signal its whole process group; until it was reaped the number cannot be anybody's."""
        if self.pid <= 1:
            return  # never started; 0 would mean our own group
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return


def execute(argv: list[str], env: Mapping[str, str], ends: list[int]) -> int:
    """Start a program in a session of its own; the current directory is its own."""
    return os.posix_spawn(
        _lookup(argv[0], env.get("PATH", os.defpath)),
        argv,
        env,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, ends[0], 1),
            (os.POSIX_SPAWN_DUP2, ends[1], 2),
        ],
        setsid=True,
        setsigmask=[],
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP, signal.SIGINT, signal.SIGCHLD],
    )


def _lookup(program: str, path: str) -> str:
    if "/" in program:
        return program
    for directory in path.split(":"):
        candidate = f"{directory or '.'}/{program}"
        if os.access(candidate, os.X_OK) and not os.path.isdir(candidate):  # noqa: PTH112
            return candidate
    raise FileNotFoundError(errno.ENOENT, "not found in PATH", program)


def ended(program: Program, **fields: object) -> Json:
    """Say that and how a program ended, just now."""
    return {"started": program.started, "finished": time.time(), **fields}


def mark_of(pid: int) -> bytes:
    """Return state directory and name of the run that a process descends from, or nothing."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123
            entries = file.read().split(b"\0")
    except OSError:
        return b""
    prefix = f"{MARK}=".encode()
    return next((e[len(prefix) :] for e in entries if e.startswith(prefix)), b"")


def end_all(prefix: bytes) -> None:
    """Kill what a killed shepherd left running, and return when it is gone."""
    deadline = time.monotonic() + 5.0
    while time.monotonic() < deadline:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208
        left = [pid for pid in pids if mark_of(pid).startswith(prefix)]
        if not left:
            return
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
