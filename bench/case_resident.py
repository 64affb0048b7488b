"""Case `resident`: messages through one program that stays."""

import asyncio
import shutil
import sys
from functools import partial
from itertools import count
from pathlib import Path

import msgspec

from bench.bare_containers import engine, socket_path
from bench.children import BENCH, ChildFailedError, Job
from bench.figures import Bar, Effort, Figure, Gap, alternate
from bench.ground import Ground, ground, one_function
from bench.modes import RESIDENT_DOCKER, RESIDENT_PROCESS, Mode
from bench.resident_program import IN_FLIGHT
from bench.rounds import memory, worked_off

TITLE = "one resident program, the whole path"
HOW = """\
Messages wait in the stream before the clock runs. One program (`bench/resident_program.py`, Python,
`json` of the standard library) that stays takes up to 64 messages at once and answers each without
doing anything; every message ends in a group commit with its done-record, synced to disk, and a
double ack. In docker it runs in the image of `examples/resident`. The clock runs after the first
500 messages, so that the program has been started. The server syncs every ack by itself, so on disk
both sides follow the time of one sync; *store in memory* shows what node and program can do.
Baseline: as many messages through one function that does nothing, with 64 slots: the same without
the program. After each round the stream must hold one done-record per message and nothing else."""

IMAGE = "sbx/resident:latest"
WARM = 500
BAR = Bar(limit=3000)
MODES = (RESIDENT_PROCESS, RESIDENT_DOCKER)


async def run(folder: Path, effort: Effort) -> list[Figure | Gap]:
    """Measure messages per second of one program, as a process and in a container."""
    rows: list[Figure | Gap] = []
    numbers = count()
    in_memory = await asyncio.to_thread(memory, folder)
    try:
        for place, (where, store) in enumerate((("", folder), (", store in memory", in_memory))):
            async with ground(store) as site:
                for number, mode in enumerate(MODES, len(MODES) * place):
                    what = Round(site, folder, mode, numbers)
                    rows.append(await _row(what, where, effort, 2 * len(MODES) - number))
    finally:
        await asyncio.to_thread(shutil.rmtree, in_memory, ignore_errors=True)
    return rows


class Round(msgspec.Struct, frozen=True):
    """What both sides of a row need."""

    site: Ground
    folder: Path
    mode: Mode
    numbers: "count[int]"


async def _row(what: Round, where: str, effort: Effort, left: int) -> Figure | Gap:
    messages = effort.pick(12_000, 5000)
    name = f"{what.mode.name}, 1 program, {messages:,} messages{where}"
    if missing := what.mode.missing or await _image_missing(what.mode):
        return Gap(name=name, reason=missing)
    try:
        ours, baseline = await alternate(
            effort.share(left),
            partial(_resident, what, messages),
            partial(_function, what, messages),
        )
    except ChildFailedError as error:
        return Gap(name=name, reason=str(error))
    return Figure(
        name=name,
        unit="messages/s",
        ours=ours,
        against="function mode, 64 slots",
        baseline=baseline,
        bar=BAR,
    )


async def _image_missing(mode: Mode) -> str:
    """Return why a mode has no image with a Python, or nothing."""
    if mode.runtime != "docker":
        return ""
    async with engine() as docker:
        images = await docker.images.list()
    if any(IMAGE in (image["RepoTags"] or ()) for image in images):
        return ""
    return f"the engine at {socket_path()} has no image {IMAGE}: examples/resident/image.sh"


async def _resident(what: Round, messages: int) -> float:
    """Return the messages per second of one program."""
    text = await asyncio.to_thread((BENCH / "resident_program.py").read_text)
    python = "python3" if what.mode.runtime == "docker" else sys.executable
    topology = what.mode.topology(
        f"resident{next(what.numbers)}", image=IMAGE, command=(python, "-c", text), slots=1
    )
    job = Job(folder=str(what.folder / topology.name), tasks=messages, warm=WARM)
    return messages / await worked_off(what.site, topology, job, what.mode.runtime)


async def _function(what: Round, messages: int) -> float:
    """Return the messages per second of a function that does nothing."""
    topology = one_function(f"function{next(what.numbers)}", IN_FLIGHT)
    job = Job(folder=str(what.folder / topology.name), tasks=messages, warm=WARM)
    return messages / await worked_off(what.site, topology, job, "")
