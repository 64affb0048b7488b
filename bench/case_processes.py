"""Case `processes`: a program per message without a container."""

from functools import partial
from itertools import count
from pathlib import Path

from bench.children import Job, measured
from bench.figures import Bar, Effort, Figure, alternate
from bench.ground import Ground, ground, inject, program
from scalebox_actors.topology.render import render

TITLE = "process runtime, `/bin/true` per message"
HOW = """\
As above, with one module that runs `/bin/true` per message in the process runtime: work directory,
shepherd, outputs read back, commit synced to disk, ack, everything removed. Baseline:
`asyncio.create_subprocess_exec` and `wait` in a loop on plain asyncio, with the same number at
once, nothing captured and nothing stored."""

COMMAND = ("/bin/true",)
AT_ONCE = ((1, 150), (4, 500), (8, 500))
"""So many at once, and so many tasks to a round."""
BAR = Bar(limit=2, at_least=False, of_ratio=True)


async def run(folder: Path, effort: Effort) -> list[Figure]:
    """Measure the time per program at three concurrencies."""
    figures = []
    numbers = count()
    async with ground(folder) as site:
        for place, (slots, full) in enumerate(AT_ONCE):
            tasks = effort.pick(full, full // 3)

            async def side(name: str, slots: int = slots, tasks: int = tasks) -> float:
                return await _round(site, folder / f"{name}{next(numbers)}", name, slots, tasks)

            ours, baseline = await alternate(
                effort.share(len(AT_ONCE) - place),
                partial(side, "engine"),
                partial(side, "bare-processes"),
            )
            figures.append(
                Figure(
                    name=f"process runtime, {slots} at once",
                    unit="ms/task",
                    ours=ours,
                    against="bare asyncio loop",
                    baseline=baseline,
                    bar=BAR,
                )
            )
    return figures


async def _round(site: Ground, folder: Path, side: str, slots: int, tasks: int) -> float:
    job = Job(folder=str(folder), tasks=tasks, slots=slots, command=COMMAND)
    if side != "engine":
        return (await measured(side, job)).seconds / tasks * 1000
    return await engine_seconds(site, job, "process") / tasks * 1000


async def engine_seconds(site: Ground, job: Job, runtime: str) -> float:
    """Let messages wait for a program and return the seconds in which a node worked them off."""
    topology = program("programs", job.slots, *job.command, image=job.image or "none")
    broker = await site.lay(topology)
    await inject(broker, "only", job.tasks)
    given = Job(
        folder=job.folder,
        url=site.url,
        topology=render(topology).decode(),
        tasks=job.tasks,
        slots=job.slots,
        runtime=runtime,
    )
    answer = await measured("engine", given)
    await site.check(topology, records=job.tasks)
    await site.clear(topology)
    return answer.seconds
