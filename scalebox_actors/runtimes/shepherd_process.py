"""A plain process that the shepherd looks after. Standard library only."""

import contextlib
import errno
import os
import signal
import time
from collections.abc import Mapping

from scalebox_actors.runtimes.shepherd_journal import Json
from scalebox_actors.runtimes.shepherd_program import (
    LOOK_AGAIN,
    MARK,
    Output,
    Program,
    marked,
    sendable,
    unlink,
)

AGAIN = (errno.EAGAIN, errno.ENOMEM, errno.ENFILE, errno.EMFILE, errno.ENOSPC)
"""What may pass: the host has no room just now."""


class Process(Program):
    """A program with the rights of the node's user, in a session of its own."""

    @staticmethod
    def end_strays(state: str, known: Mapping[str, Program]) -> None:  # noqa: ARG004 - all go
        """Kill what a killed shepherd left running, and return when it is gone."""
        deadline = time.monotonic() + 5.0
        while time.monotonic() < deadline:
            left = list(marked(f"{state}/".encode()))
            if not left:
                return
            for pid, _ in left:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(LOOK_AGAIN)

    def begin(self, asked: Json) -> None:
        """Start it in its work directory."""
        env = {**asked["env"], MARK: self.mark}
        outputs: list[Output] = []
        ends: list[int] = []
        try:
            for name in ("stdout", "stderr"):
                reader, writer = os.pipe2(os.O_CLOEXEC)
                os.set_blocking(reader, False)
                outputs.append(Output(self.log(name), reader, asked["log_bytes"]))
                ends.append(writer)
            self.started = time.time()
            os.chdir(self.work)
            self.pid = _execute(asked["argv"], env, ends)
        except OSError as error:
            if error.errno in AGAIN or error.filename == self.work:
                raise
            code = 127 if error.errno in (errno.ENOENT, errno.ENOTDIR) else 126
            self._not_started(code, f"{asked['argv'][0]}: {error.strerror}")
            return
        except ValueError as error:  # what no program can be given, such as a variable `A=B`
            self._not_started(126, f"{asked['argv'][0]}: {error}")
            return
        finally:
            os.chdir("/")
            for end in ends:
                os.close(end)
            if not self.pid:
                for output in outputs:
                    output.close()
        self.outputs = tuple(outputs)

    def _not_started(self, code: int, detail: str) -> None:
        self.exit = self.end(code=code, not_started=True, detail=sendable(detail))

    def resume(self, pid: int) -> bool:  # noqa: ARG002 - whichever it is
        """Refuse: only a parent is told an exit code."""
        return False

    def terminate(self) -> None:
        """Signal its whole process group."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End its whole process group."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.pid <= 1:
            return  # never started; 0 would mean our own group
        # Until it was reaped the number cannot be anybody's.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def sweep(self) -> None:
        """End what it started."""
        self.kill()

    def over(self, code: int, used: Json) -> Json:
        """Say how it ended, by what the kernel told its parent."""
        return self.end(code=code, **used)

    def abandoned(self) -> Json:
        """Say that nobody knows."""
        return self.end(code=128 + signal.SIGKILL, lost=True)

    def forget(self) -> None:
        """Remove what it printed."""
        for path in (self.log(name) for name in ("stdout", "stderr")):
            if any(o.size for o in self.outputs) or not self.outputs:
                unlink(path, path + ".old")


def _execute(argv: list[str], env: Mapping[str, str], ends: list[int]) -> int:
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
