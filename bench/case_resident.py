"""Case `resident`: messages through one program that stays."""

import asyncio
import sys
from functools import partial
from itertools import count
from pathlib import Path

from bench.bare_containers import engine, socket_path
from bench.children import BENCH, ChildFailedError, Job
from bench.figures import Bar, Effort, Figure, Gap, alternate
from bench.ground import Ground, ground, one_function
from bench.modes import RESIDENT_DOCKER, RESIDENT_PROCESS, Mode
from bench.resident_program import IN_FLIGHT
from bench.rounds import worked_off

TITLE = "one resident program, the whole path"
HOW = """\
Messages wait in the stream before the clock runs. One program (`bench/resident_program.py`, Python,
`json` of the standard library) that stays takes up to 64 messages at once and answers each without
doing anything; every message ends in a group commit with its done-record, synced to disk, and a
double ack. In docker it runs in the image of `examples/resident`. The clock runs after the first
500 messages, so that the program has been started. Baseline: as many messages through one function
that does nothing, with 64 slots: the same without the program. After each round the stream must
hold one done-record per message and nothing else."""

IMAGE = "sbx/resident:latest"
WARM = 500
BAR = Bar(limit=3000)


async def run(folder: Path, effort: Effort) -> list[Figure | Gap]:
    """Measure messages per second of one program, as a process and in a container."""
    rows: list[Figure | Gap] = []
    messages = effort.pick(12_000, 5000)
    numbers = count()
    modes = (RESIDENT_PROCESS, RESIDENT_DOCKER)
    async with ground(folder) as site:
        for place, mode in enumerate(modes):
            name = f"{mode.name}, 1 program, {messages:,} messages"
            missing = mode.missing or await _image_missing(mode)
            if missing:
                rows.append(Gap(name=name, reason=missing))
                continue
            try:
                ours, baseline = await alternate(
                    effort.share(len(modes) - place),
                    partial(_resident, site, folder, mode, messages, numbers),
                    partial(_function, site, folder, messages, numbers),
                )
            except ChildFailedError as error:
                rows.append(Gap(name=name, reason=str(error)))
                continue
            rows.append(
                Figure(
                    name=name,
                    unit="messages/s",
                    ours=ours,
                    against="function mode, 64 slots",
                    baseline=baseline,
                    bar=BAR,
                )
            )
    return rows


async def _image_missing(mode: Mode) -> str:
    """Return why a mode has no image with a Python, or nothing."""
    if mode.runtime != "docker":
        return ""
    async with engine() as docker:
        images = await docker.images.list()
    if any(IMAGE in (image["RepoTags"] or ()) for image in images):
        return ""
    return f"the engine at {socket_path()} has no image {IMAGE}: examples/resident/image.sh"


async def _resident(
    site: Ground, folder: Path, mode: Mode, messages: int, numbers: "count[int]"
) -> float:
    """Return the messages per second of one program."""
    text = await asyncio.to_thread((BENCH / "resident_program.py").read_text)
    python = "python3" if mode.runtime == "docker" else sys.executable
    topology = mode.topology(
        f"resident{next(numbers)}", image=IMAGE, command=(python, "-c", text), slots=1
    )
    job = Job(folder=str(folder / topology.name), tasks=messages, warm=WARM)
    return messages / await worked_off(site, topology, job, mode.runtime)


async def _function(site: Ground, folder: Path, messages: int, numbers: "count[int]") -> float:
    """Return the messages per second of a function that does nothing."""
    topology = one_function(f"function{next(numbers)}", IN_FLIGHT)
    job = Job(folder=str(folder / topology.name), tasks=messages, warm=WARM)
    return messages / await worked_off(site, topology, job, "")
