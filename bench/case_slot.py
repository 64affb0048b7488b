"""Case `slot`: a process per message in a container that stays."""

import asyncio
import shutil
from functools import partial
from itertools import count
from pathlib import Path

from bench.case_containers import COMMAND, IMAGE, make_image
from bench.children import ChildFailedError, Job, measured
from bench.figures import Bar, Effort, Figure, Gap, beyond, take_turns
from bench.ground import Ground, ground
from bench.modes import SLOT_DOCKER, SLOT_PROCESS, Mode
from bench.rounds import memory, worked_off

TITLE = "slot mode, `/bin/true` per message in a container that stays"
HOW = """\
One slot, so one message at a time, and no batch: the agent in the slot's container runs `/bin/true`
for each message, and its outputs are read back, committed with a sync to disk and acked as in any
other mode. The clock runs after the first messages, so that the slot is open. Baseline: a loop that
does nothing but start `/bin/true` on the host and wait for it, one at a time. *In memory*: with
`--work memory`, so that work directories do not wait for the server's syncs of the same disk. *Over
the process* is ours less the baseline of the same round."""

LEAST = 18.0
WARM = 10
BAR = Bar(limit=3, at_least=False)


async def run(folder: Path, effort: Effort) -> list[Figure | Gap]:
    """Measure milliseconds per message of a slot, as a process and in a container."""
    rows: list[Figure | Gap] = []
    in_memory = await asyncio.to_thread(memory, folder)
    modes = (SLOT_PROCESS, SLOT_DOCKER)
    try:
        async with ground(folder) as site:
            case = _Slots(site, (folder, in_memory), effort.pick(600, 200))
            for place, mode in enumerate(modes):
                rows += await case.rows(effort.share(len(modes) - place), mode)
    finally:
        await asyncio.to_thread(shutil.rmtree, in_memory, ignore_errors=True)
    return rows


class _Slots:
    """One server, and two places for work directories: on disk and in memory."""

    def __init__(self, site: Ground, places: tuple[Path, Path], tasks: int) -> None:
        self._site, self._places, self._tasks = site, places, tasks
        self._numbers = count()

    async def rows(self, effort: Effort, mode: Mode) -> list[Figure | Gap]:
        """Measure a mode in both places against the bare process."""
        if mode.missing:
            return [Gap(name=mode.name, reason=mode.missing)]
        if mode.runtime == "docker":
            await make_image()
        disk, in_memory = self._places
        try:
            disks, memories, bare = await take_turns(
                effort,
                (partial(self._slot, mode, disk), partial(self._slot, mode, in_memory), self._bare),
            )
        except ChildFailedError as error:
            return [Gap(name=mode.name, reason=str(error))]
        name = f"{mode.name}, 1 at once"
        return [*_figures(name, disks, bare), *_figures(f"{name}, in memory", memories, bare)]

    async def _slot(self, mode: Mode, place: Path) -> float:
        name = f"slot{next(self._numbers)}"
        topology = mode.topology(name, image=IMAGE, command=COMMAND, slots=1)
        job = Job(folder=str(place / name), tasks=self._tasks, warm=WARM)
        return await worked_off(self._site, topology, job, mode.runtime) / self._tasks * 1000

    async def _bare(self) -> float:
        here = self._places[0] / f"bare{next(self._numbers)}"
        job = Job(folder=str(here), tasks=self._tasks, command=COMMAND)
        return (await measured("bare-processes", job)).seconds / self._tasks * 1000


def _figures(name: str, ours: tuple[float, ...], baseline: tuple[float, ...]) -> list[Figure | Gap]:
    over = beyond(ours, baseline)
    return [
        Figure(
            name=title,
            unit="ms/message",
            ours=values,
            against="bare asyncio loop of processes",
            baseline=baseline,
            bar=bar,
        )
        for title, values, bar in ((name, ours, None), (f"{name}: over the process", over, BAR))
    ]
