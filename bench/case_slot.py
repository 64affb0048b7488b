"""Case `slot`: a process per message in a container that stays."""

from functools import partial
from itertools import count
from pathlib import Path

from bench.case_containers import COMMAND, IMAGE, make_image
from bench.case_processes import worked_off
from bench.children import ChildFailedError, Job, measured
from bench.figures import Bar, Effort, Figure, Gap, alternate
from bench.ground import Ground, ground
from bench.modes import SLOT_DOCKER, SLOT_PROCESS, Mode

TITLE = "slot mode, `/bin/true` per message in a container that stays"
HOW = """\
One slot, so one message at a time, and no batch: the agent in the slot's container runs `/bin/true`
for each message, and its outputs are read back, committed with a sync to disk and acked as in any
other mode. The clock runs after the first messages, so that the slot is open. Baseline: a loop that
does nothing but start `/bin/true` on the host and wait for it, one at a time. *Over the process* is
ours less the baseline of the same round."""

WARM = 10
BAR = Bar(limit=3, at_least=False)


async def run(folder: Path, effort: Effort) -> list[Figure | Gap]:
    """Measure milliseconds per message of a slot, as a process and in a container."""
    rows: list[Figure | Gap] = []
    tasks = effort.pick(600, 200)
    numbers = count()
    modes = (SLOT_PROCESS, SLOT_DOCKER)
    async with ground(folder) as site:
        for place, mode in enumerate(modes):
            if mode.missing:
                rows.append(Gap(name=mode.name, reason=mode.missing))
                continue
            if mode.runtime == "docker":
                await make_image()
            try:
                ours, baseline = await alternate(
                    effort.share(len(modes) - place),
                    partial(_slot, site, folder, mode, tasks, numbers),
                    partial(_bare, folder, tasks, numbers),
                )
            except ChildFailedError as error:
                rows.append(Gap(name=mode.name, reason=str(error)))
                continue
            rows += _figures(f"{mode.name}, 1 at once", ours, baseline)
    return rows


def _figures(name: str, ours: tuple[float, ...], baseline: tuple[float, ...]) -> list[Figure | Gap]:
    over = tuple(mine - bare for mine, bare in zip(ours, baseline, strict=True))
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


async def _slot(site: Ground, folder: Path, mode: Mode, tasks: int, numbers: "count[int]") -> float:
    topology = mode.topology(f"slot{next(numbers)}", image=IMAGE, command=COMMAND, slots=1)
    job = Job(folder=str(folder / topology.name), tasks=tasks, warm=WARM)
    return await worked_off(site, topology, job, mode.runtime) / tasks * 1000


async def _bare(folder: Path, tasks: int, numbers: "count[int]") -> float:
    job = Job(folder=str(folder / f"bare{next(numbers)}"), tasks=tasks, command=COMMAND)
    return (await measured("bare-processes", job)).seconds / tasks * 1000
