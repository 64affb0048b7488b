"""What the shell at a gate does, for scripted containers: they wait, are let in, and run."""

import asyncio
import contextlib
import os
import shlex
from collections.abc import Callable
from pathlib import Path

import msgspec

from scalebox_actors.spec import ContainerSpec
from scalebox_actors.testing.scripted import Host

Program = Callable[[ContainerSpec, Path], int]


class Gatekeeper:
    """A program for a scripted host: behind a gate where its container was started ahead."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self.host: Host
        self.runs: list[str] = []
        """The body of every task that was really run, in order."""
        self.free = asyncio.Event()
        """Until it is set, no program begins."""
        self.free.set()

    async def __call__(self, spec: ContainerSpec, work: Path) -> int:
        """Wait at the gate if there is one, then run."""
        if spec.labels.get("sbx.role") != "warm":
            await self.free.wait()
            return self._run(spec, work)
        with contextlib.ExitStack() as stack:
            place, door = (_hold(stack, path) for path in (work, spec.mounts[-1].source))
            text = await self._wait(stack, door)
            if text is None:
                return 125
            # Quoted words of a shell, which this reads back as a shell does.
            words = shlex.split(text.rpartition(b'exec "$@"')[2].decode())
            command = (*spec.command[:-1], *words)
            await self.free.wait()
            here = Path(os.readlink(f"/proc/self/fd/{place}"))  # noqa: PTH115 - in memory
            return self._run(msgspec.structs.replace(spec, command=command), here)

    def _run(self, spec: ContainerSpec, work: Path) -> int:
        self.runs.append(spec.command[1])
        return self._program(spec, work)

    async def _wait(self, stack: contextlib.ExitStack, door: int) -> bytes | None:
        """Say that we wait, and return what the node wrote down; None if it hung up."""
        to = os.open("in", os.O_RDONLY | os.O_NONBLOCK, dir_fd=door)
        stack.callback(os.close, to)
        out = os.open("out", os.O_RDWR | os.O_NONBLOCK, dir_fd=door)
        os.write(out, b"ready\n")
        os.close(out)
        word = await _read(to)
        if word != b"go\n":
            me = asyncio.current_task()
            for container in self.host.containers.values():
                if container.task is me:
                    container.stderr += b"sbx-gate: never opened\n"
            return None
        file = os.open("run", os.O_RDONLY, dir_fd=door)
        with os.fdopen(file, "rb") as opened:
            return opened.read()


def _hold(stack: contextlib.ExitStack, path: Path | str) -> int:
    """Hold a directory as a mount does: whatever it is called later."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    stack.callback(os.close, folder)
    return folder


async def _read(pipe: int) -> bytes:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(pipe, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(pipe)
    return os.read(pipe, 100)
