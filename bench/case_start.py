"""Case `start`: from pressing Enter to the first program that runs."""

import asyncio
import json
import time
from collections.abc import Sequence
from functools import partial
from itertools import count
from pathlib import Path

from bench.bare_containers import engine, socket_path
from bench.case_containers import IMAGE, make_image
from bench.children import ChildFailedError, Job, command_line, environment, invocation
from bench.figures import Bar, Effort, Figure, alternate
from bench.ground import program
from scalebox_actors.topology.render import render

TITLE = "`sbx-actor run`: from the command to the first program, or container, that runs"
HOW = """\
`sbx-actor run TOPOLOGY --send only 1` in an empty folder: it starts a server, makes streams,
sends the message and launches. The watch stops when the program writes the time into a file, or
at the engine's `start` event of the container. Baseline: a Python script that starts the same
program, or the same container through aiodocker, and nothing else."""

BAR = Bar(limit=2, at_least=False)
PATIENCE = 60.0


async def run(folder: Path, effort: Effort) -> list[Figure]:
    """Measure seconds to the first run on both runtimes, on docker if there is an engine."""
    numbers = count()
    processes = await alternate(
        effort.share(2),
        partial(_program, folder, numbers, ours=True),
        partial(_program, folder, numbers, ours=False),
    )
    figures = [_figure("run → first program (process)", processes)]
    if await asyncio.to_thread(Path(socket_path()).exists):
        await make_image()
        containers = await alternate(
            effort,
            partial(_container, folder, numbers, ours=True),
            partial(_container, folder, numbers, ours=False),
        )
        figures.append(_figure("run → first container (docker)", containers))
    return figures


def _figure(name: str, values: tuple[tuple[float, ...], tuple[float, ...]]) -> Figure:
    return Figure(
        name=name,
        unit="s",
        ours=values[0],
        against="bare script",
        baseline=values[1],
        bar=BAR,
    )


async def _program(folder: Path, numbers: "count[int]", *, ours: bool) -> float:
    here = folder / f"start{next(numbers)}"
    here.mkdir()
    stamp = here / "stamp"
    command = ("/bin/sh", "-c", f"date +%s%N > {stamp}")
    if ours:
        began = await _run(here, "starts", "process", command, "")
    else:
        began = await _to_its_end(invocation("bare-start", Job(folder=str(here), command=command)))
    return (int(stamp.read_text()) - began) / 1e9


async def _container(folder: Path, numbers: "count[int]", *, ours: bool) -> float:
    name = f"starts{next(numbers)}"
    here = folder / name
    here.mkdir()
    if ours:
        began = await _run(here, name, "docker", ("/bin/true",), IMAGE)
    else:
        name = "bare-start"
        job = Job(folder=str(here), image=IMAGE, command=("/bin/true",))
        began = await _to_its_end(invocation("bare-start", job))
    return (await _start_event(name, began) - began) / 1e9


async def _run(here: Path, name: str, runtime: str, command: tuple[str, ...], image: str) -> int:
    file = here / "topology.yaml"
    file.write_bytes(render(program(name, 1, *command, image=image or "none")))
    return await _to_its_end(
        (
            *(*command_line(), "run", str(file), "--send", "only", "1"),
            *("--runtime", runtime, "--store", str(here / "store")),
        )
    )


async def _to_its_end(command: Sequence[str]) -> int:
    """Run a command to its end and return when it began, in nanoseconds since the epoch."""
    began = time.time_ns()
    child = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )
    try:
        async with asyncio.timeout(PATIENCE):
            _, complaint = await child.communicate()
    finally:
        if child.returncode is None:
            child.terminate()
            await child.wait()
    if child.returncode != 0:
        raise ChildFailedError(f"{command[0]}: {child.returncode}: {complaint.decode()[-300:]}")
    return began


async def _start_event(topology: str, since: int) -> int:
    """Return when the engine started the container of a topology; asked for afterwards."""
    filters = {"event": ["start"], "label": [f"sbx.topology={topology}"]}
    params = {
        "since": f"{since // 10**9}.{since % 10**9:09d}",
        "until": str(int(time.time()) + 1),
        "filters": json.dumps(filters),
    }
    async with engine() as docker, docker._query("events", params=params) as response:  # noqa: SLF001 - events that are over
        for line in (await response.text()).splitlines():
            return int(json.loads(line)["timeNano"])
    raise ChildFailedError(f"no container of {topology} was started")
