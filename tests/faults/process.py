"""`sbx-actor node` as a child process, and how conditions are awaited."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import scalebox_actors

POLL = 0.02
READY = 20.0
EXIT_OF_TERM = 30.0
PACKAGE_ROOT = Path(scalebox_actors.__file__).parents[1]
PROGRAM = (
    sys.executable,
    "-c",
    "import sys; from scalebox_actors.cli import main; sys.exit(main())",
)


async def until(
    condition: Callable[[], Awaitable[object] | object], what: str, *, seconds: float
) -> float:
    """Wait until `condition` is true and return how long that took; fails after `seconds`."""
    began = time.monotonic()
    while True:
        answer = condition()
        if isinstance(answer, Awaitable):
            answer = await answer
        took = time.monotonic() - began
        if answer:
            return took
        assert took < seconds, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(POLL)


class NodeProcess:
    """`sbx-actor node` as a child process."""

    def __init__(self, arguments: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        self.log = log
        with log.open("ab") as file:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [*PROGRAM, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd=log.parent,
                env={**os.environ, "PYTHONPATH": str(PACKAGE_ROOT), **env},
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How it ended, or None."""
        return self._process.poll()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    async def ready(self) -> None:
        """Wait until its actors have begun."""

        def started() -> bool:
            assert self.exit_code is None, self.log.read_text("utf-8")
            return len(self.events("node_started")) > 0

        await until(started, "node_started", seconds=READY)

    async def ended(self, seconds: float = EXIT_OF_TERM) -> int:
        """Wait for its end and return the exit code."""
        await until(lambda: self.exit_code is not None, "the node's end", seconds=seconds)
        return self._process.wait()

    def kill(self) -> None:
        """End it as a power cut would."""
        self._process.kill()
        self._process.wait()

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """Return what it has logged, or only the events of that name."""
        found = []
        for line in self.log.read_text("utf-8", "replace").splitlines():
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                if not name or record.get("event") == name:
                    found.append(record)
        return found

    def memory(self) -> int:
        """Return its resident memory in bytes."""
        fields = Path(f"/proc/{self.pid}/statm").read_text("ascii").split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        """Return how many files and sockets it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208 - a number is all we want
