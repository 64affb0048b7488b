"""Case `processes`: a program per message without a container."""

import asyncio
import shutil
from functools import partial
from itertools import count
from pathlib import Path

from bench.children import Job, measured
from bench.figures import Bar, Effort, Figure, beyond, take_turns
from bench.ground import Ground, ground
from bench.rounds import engine_seconds, memory

TITLE = "process runtime, `/bin/true` per message"
HOW = """\
As above, with one module that runs `/bin/true` per message in the process runtime: work directory,
shepherd, outputs read back, commit synced to disk, ack, everything removed. Baseline:
`asyncio.create_subprocess_exec` and `wait` in a loop on plain asyncio, with the same number at
once, nothing captured and nothing stored. *In memory*: with `--work memory`, so that work
directories do not wait for the server's syncs of the same disk. *Over the loop* is ours less the
baseline of the same round. The clock runs after the first 20 messages: how long a node takes to its
first program is measured in `start`. Ends within six minutes."""

SECONDS = 240.0
COMMAND = ("/bin/true",)
AT_ONCE = ((1, 300), (2, 600), (8, 1600))
"""So many at once, and so many tasks to a round."""
WARM = 20
BAR = Bar(limit=2, at_least=False, of_ratio=True)
OVER = Bar(limit=1, at_least=False)


async def run(folder: Path, effort: Effort) -> list[Figure]:
    """Measure the time per program at three concurrencies, on disk and in memory."""
    figures = []
    numbers = count()
    in_memory = await asyncio.to_thread(memory, folder)
    try:
        async with ground(folder) as site:
            for place, (slots, full) in enumerate(AT_ONCE):
                tasks = effort.pick(full, full // 2)

                async def side(
                    name: str, base: Path, slots: int = slots, tasks: int = tasks
                ) -> float:
                    return await _round(site, base / f"{name}{next(numbers)}", name, slots, tasks)

                sides = (
                    partial(side, "engine", folder),
                    partial(side, "engine", in_memory),
                    partial(side, "bare-processes", folder),
                )
                taken = await take_turns(effort.share(len(AT_ONCE) - place), sides)
                figures += _figures(slots, taken)
    finally:
        await asyncio.to_thread(shutil.rmtree, in_memory, ignore_errors=True)
    return figures


def _figures(slots: int, taken: list[tuple[float, ...]]) -> list[Figure]:
    baseline, rows = taken[2], []
    for ours, where in ((taken[0], ""), (taken[1], ", in memory")):
        name = f"process runtime, {slots} at once{where}"
        rows += [
            _figure(name, ours, baseline, BAR),
            _figure(f"{name}: over the loop", beyond(ours, baseline), baseline, OVER),
        ]
    return rows


def _figure(name: str, ours: tuple[float, ...], baseline: tuple[float, ...], bar: Bar) -> Figure:
    return Figure(
        name=name,
        unit="ms/task",
        ours=ours,
        against="bare asyncio loop",
        baseline=baseline,
        bar=bar,
    )


async def _round(site: Ground, folder: Path, side: str, slots: int, tasks: int) -> float:
    job = Job(folder=str(folder), tasks=tasks, warm=WARM, slots=slots, command=COMMAND)
    if side != "engine":
        return (await measured(side, job)).seconds / tasks * 1000
    return await engine_seconds(site, job, "process") / tasks * 1000
