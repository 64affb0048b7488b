"""How soon a program starts after its message: what `warm` is for, measured against no `warm`."""

import asyncio
import os
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scalebox_actors.launch import workdir
from scalebox_actors.launch.environment import Surroundings
from scalebox_actors.launch.fresh import FreshLauncher
from scalebox_actors.launch.workplace import Workplace
from scalebox_actors.message import Message
from scalebox_actors.ports import Task
from scalebox_actors.runtimes.docker import DockerRuntime
from scalebox_actors.spec import Ceiling, Root
from scalebox_actors.topology.model import Duration, Module

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

MESSAGES = int(os.environ.get("SBX_LATENCY_MESSAGES", "12"))
SOONER = 3.0
"""Measured: 12 to 15 on a machine with ten times more to do than it can; more on a quiet one."""


class Stopwatch:
    """A pipe that programs write to when they begin, and the times at which they did."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        os.mkfifo(folder / "begun")
        (folder / "begun").chmod(0o666)
        self._pipe = os.open(folder / "begun", os.O_RDWR)
        self.times: list[float] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while os.read(self._pipe, 1) == b"x":
            self.times.append(time.monotonic())

    def close(self) -> None:
        """Let go of the pipe."""
        os.write(self._pipe, b".")

    async def began(self) -> float:
        """Return when the program began that was waited for."""
        async with asyncio.timeout(20):
            while not self.times:  # noqa: ASYNC110 - a thread fills it
                await asyncio.sleep(0.001)
        return self.times.pop()


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Stopwatch]:
    """A stopwatch in a folder that is mounted."""
    made = Stopwatch(tmp_path / "watch")
    yield made
    made.close()


async def test_a_warm_program_begins_several_times_sooner(
    tmp_path: Path, busybox_image: str, watch: Stopwatch
) -> None:
    """From the message in hand to the program's first act; run with `-s` to see the figures."""
    runtime = await DockerRuntime.open()
    place = Workplace(
        runtime=runtime,
        base=workdir.make_base(tmp_path / "base"),
        surroundings=Surroundings(topology=f"t{os.getpid()}", node="n1"),
        ceiling=Ceiling(roots={"watch": Root(path=str(tmp_path / "watch"), writable=True)}),
    )

    def launcher(name: str, warm: int) -> FreshLauncher:
        module = Module(
            name=name,
            image=busybox_image,
            command=("/bin/sh", "-c", "printf x >/watch/begun"),
            mounts=("watch:.:/watch:rw",),
            warm=warm,
            timeout=Duration(60),
        )
        return FreshLauncher(module, place)

    both = {"warm": launcher("w", 2), "cold": launcher("c", 0)}
    both["warm"].open()
    taken: dict[str, list[float]] = {"warm": [], "cold": []}
    for number in range(MESSAGES):
        while both["warm"].states["ready"] < 2:  # noqa: ASYNC110 - engines tell nobody
            await asyncio.sleep(0.02)
        for kind, one in both.items():
            task = Task(message=Message(module=kind[0], id=f"m{number}", body=b"x" * 200))
            asked = time.monotonic()
            outcome = await one.run(task)
            taken[kind].append((await watch.began() - asked) * 1000)
            await one.clear(task, outcome)
    await both["warm"].close()
    await runtime.close()

    for kind, times in taken.items():
        worst = sorted(times)[int(0.99 * (len(times) - 1))]
        print(f"{kind}: p50 {statistics.median(times):.1f} ms, p99 {worst:.1f} ms")  # noqa: T201
    assert statistics.median(taken["cold"]) > SOONER * statistics.median(taken["warm"])
