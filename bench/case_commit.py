"""Case `commit`: the ceiling that group commit sets to everything else."""

from functools import partial
from itertools import count
from pathlib import Path

from bench.children import Job, measured
from bench.figures import Effort, Figure, alternate
from bench.ground import Ground, UnsoundError, chain, ground
from scalebox_actors.broker import Admin
from scalebox_actors.names import Names
from scalebox_actors.topology.render import render

TITLE = "group commit: tasks per second by the size of the group"
HOW = """\
A committer stores finished tasks, each a done-record and one output, in groups of a fixed size with
one batch in flight, synced to disk; nothing is pulled and nothing is acked. Baseline: batches of
the same two messages per task by hand over nats-py."""

GROUPS = ((1, 150), (10, 100), (100, 40), (333, 20))
"""Size of a group, and how many of them to a round."""


async def run(folder: Path, effort: Effort) -> list[Figure]:
    """Measure tasks per second at four sizes of the group."""
    figures = []
    numbers = count()
    async with ground(folder) as site:
        for place, (size, groups) in enumerate(GROUPS):
            tasks = size * effort.pick(groups, groups // 2)

            async def side(name: str, size: int = size, tasks: int = tasks) -> float:
                return await _round(site, folder, name, next(numbers), (size, tasks))

            ours, baseline = await alternate(
                effort.share(len(GROUPS) - place),
                partial(side, "engine-commit"),
                partial(side, "bare-commit"),
            )
            figures.append(
                Figure(
                    name=f"commit in groups of {size}",
                    unit="tasks/s",
                    ours=ours,
                    against="batches by hand",
                    baseline=baseline,
                )
            )
    return figures


async def _round(
    site: Ground, folder: Path, side: str, number: int, work: tuple[int, int]
) -> float:
    size, tasks = work
    topology = chain(f"commit{number}", 1)
    await site.lay(topology)
    job = Job(
        folder=str(folder / f"{side}{number}"),
        url=site.url,
        topology=render(topology).decode(),
        tasks=tasks,
        slots=size,
    )
    answer = await measured(side, job)
    names = Names(topology.name)
    sizes = {s.name: s.messages for s in await Admin(site.link, names).sizes()}
    if sizes[names.stream] != 2 * tasks:
        raise UnsoundError(f"{side}: {sizes[names.stream]} messages of {tasks} tasks")
    await site.clear(topology)
    return tasks / answer.seconds
