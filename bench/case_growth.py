"""Case `growth`: what a task costs with a thousand waiting, and with a million."""

from functools import partial
from itertools import count
from pathlib import Path

from bench.children import Answer, Job, measured
from bench.engine_sample import WARM
from bench.figures import Bar, Effort, Figure, take_turns
from bench.ground import Ground, ground, inject, one_function
from scalebox_actors.topology.model import Topology
from scalebox_actors.topology.render import render

TITLE = "growth: the cost of a task by how many wait"
HOW = """\
Two servers: before one of them 10³ messages of a module wait, before the other 10⁴, 10⁵, then 10⁶.
A node with 64 slots in function mode works off a sample of 3,000 at each, in turn; then as many are
put back, so that the depths stay. The clock runs after the first 500 tasks. Baseline: the same with
10³ waiting. Memory is the node's, resident, at the end of a sample. Ends within ten minutes."""

SECONDS = 420.0
LEAST = 120.0
"""A million messages are stored first, however few rounds there are."""
WHOLE = True
"""Its depths are what is asked about."""
SLOTS = 64
SAMPLE = 3000
SHALLOW = 1_000
COST = Bar(limit=1.1, at_least=False, of_ratio=True)
FLAT = Bar(limit=1.05, at_least=False, of_ratio=True)


class Well:
    """A server before whose one module a number of messages waits."""

    def __init__(self, site: Ground, topology: Topology, folder: Path) -> None:
        self._site, self._topology, self._folder = site, topology, folder
        self._injected = 0
        self.depth = 0
        self.memory: list[float] = []

    async def fill(self, depth: int) -> None:
        """Let so many wait, and a sample more."""
        broker = await self._site.lay(self._topology)
        self.depth = depth
        waiting = (await broker.backlog("only")).waiting
        missing = max(0, depth + SAMPLE + WARM - waiting)
        await inject(broker, "only", missing, first=self._injected)
        self._injected += missing

    async def sample(self) -> float:
        """Return the milliseconds of a task before the waiting rest; the well stays as deep."""
        await self.fill(self.depth)
        job = Job(
            folder=str(self._folder),
            url=self._site.url,
            topology=render(self._topology).decode(),
            tasks=SAMPLE,
            slots=SLOTS,
        )
        answer: Answer = await measured("engine-sample", job)
        self.memory.append(answer.memory)
        return answer.seconds / SAMPLE * 1000


async def run(folder: Path, effort: Effort) -> list[Figure]:
    """Measure time and memory of a task at growing depths against 10³."""
    levels = (10_000, 100_000) if effort.quick else (10_000, 100_000, 1_000_000)
    numbers = count()
    figures: list[Figure] = []
    async with ground(folder / "shallow") as near, ground(folder / "deep") as far:
        shallow, deep = (
            Well(site, one_function(f"well{next(numbers)}", SLOTS), folder) for site in (near, far)
        )
        await shallow.fill(SHALLOW)
        for place, level in enumerate(levels):
            await deep.fill(level)
            figures += await _level(effort.share(len(levels) - place), shallow, deep)
    return figures


async def _level(effort: Effort, shallow: Well, deep: Well) -> list[Figure]:
    shallow.memory.clear()
    deep.memory.clear()
    ours, baseline = await take_turns(effort, (partial(deep.sample), partial(shallow.sample)))
    last = deep.depth == 1_000_000  # noqa: PLR2004 - the depth that the bar names
    return [
        Figure(
            name=f"a task, {deep.depth:,} waiting",
            unit="ms/task",
            ours=ours,
            against=f"the same with {shallow.depth:,}",
            baseline=baseline,
            bar=COST if last else None,
        ),
        Figure(
            name=f"memory of the node, {deep.depth:,} waiting",
            unit="MiB",
            ours=tuple(deep.memory),
            against=f"the same with {shallow.depth:,}",
            baseline=tuple(shallow.memory),
            bar=FLAT if last else None,
        ),
    ]
