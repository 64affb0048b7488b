"""Case `latency`: from the message to the program that runs for it."""

import asyncio
import statistics
import time
from functools import partial
from itertools import count
from pathlib import Path

from bench.bare_containers import socket_path
from bench.case_containers import IMAGE, make_image
from bench.case_oci import stored
from bench.children import ChildFailedError, Job, measured
from bench.figures import Bar, Effort, Figure, Gap, take_turns
from bench.ground import Ground, ground
from bench.modes import MODES, Mode
from scalebox_actors.broker import JetStreamBroker
from scalebox_actors.message import MSG_ID
from scalebox_actors.names import Names, digest
from scalebox_actors.ports import Entry
from scalebox_actors.topology.model import Launch, Topology
from scalebox_actors.topology.render import render

TITLE = "latency: from the message to the program that runs for it"
HOW = """\
One message at a time is published into an idle node's stream (synced to disk), with the time in its
body; the program is `date`, which prints the time it started (a resident program is a shell that
stays and calls it for every message). A function's time is that of its call. Nodes and clients are
processes of their own on one host, so there is one clock. Baseline: a script that starts the same
`date`, or for docker a container of it through aiodocker, without any message. The first four
messages, as many as there are slots, open what stays open and are not counted; in the modes `warm`
a message comes every 0.4 s, so that a container can be there. p99 is that of all rounds' messages
of a mode. Ends within eight minutes."""

SECONDS = 420.0
LEAST = 75.0
SLOTS = 4
STAMP = ("/bin/date", "+%s%N")
RESIDENT = """\
echo '{"ready":true}'
while IFS='"' read -r brace key colon id rest; do
    printf '{"id":"%s","log":"%s"}\\n' "$id" "$(/bin/date +%s%N)"
done
"""
"""The protocol of docs/resident.md as far as it is used here; a line begins `{"id":"ID"`."""
MESSAGES = {"docker": 20, "oci": 60}
"""To a round; of other runtimes 150."""
BARS = {"warm": (5.0, 25.0)}
PATIENCE = 30.0
PAUSE = 0.02
REFILL = 0.4
"""Between two messages of `warm`: the next container has been started by then."""


async def run(folder: Path, effort: Effort) -> list[Figure | Gap]:
    """Measure p50 and p99 of every mode that there is."""
    rows: list[Figure | Gap] = [
        Gap(name=f"latency, {mode.name}", reason=mode.missing) for mode in MODES if mode.missing
    ]
    if await asyncio.to_thread(Path(socket_path()).exists):
        await make_image()
    if any(mode.runtime == "oci" and not mode.missing for mode in MODES):
        await asyncio.to_thread(stored, folder)
    modes = [mode for mode in MODES if not mode.missing]
    numbers = count()
    async with ground(folder) as site:
        for place, mode in enumerate(modes):
            try:
                rows += await _mode(site, folder, numbers, (effort.share(len(modes) - place), mode))
            except ChildFailedError as error:
                rows.append(Gap(name=f"latency, {mode.name}", reason=str(error)))
    return rows


async def _mode(
    site: Ground, folder: Path, numbers: "count[int]", what: tuple[Effort, Mode]
) -> list[Figure]:
    effort, mode = what
    full = MESSAGES.get(mode.runtime, 150)
    messages = effort.pick(full, full // 3)
    samples: tuple[list[float], list[float]] = [], []

    async def side(place: int) -> float:
        here = folder / f"latency{next(numbers)}"
        here.mkdir()
        taken = await (_ours(site, here, mode, messages) if place == 0 else _bare(here, mode))
        samples[place].extend(taken)
        return statistics.median(taken)

    ours, baseline = await take_turns(effort, (partial(side, 0), partial(side, 1)))
    middle, high = BARS.get(mode.name.rpartition(" ")[2], (None, None))
    against = "a bare start of the same"
    return [
        Figure(
            name=f"latency p50, {mode.name}",
            unit="ms",
            ours=ours,
            against=against,
            baseline=baseline,
            bar=None if middle is None else Bar(limit=middle, at_least=False),
        ),
        Figure(
            name=f"latency p99, {mode.name}",
            unit="ms",
            ours=(percentile(samples[0], 99),),
            against=against,
            baseline=(percentile(samples[1], 99),),
            bar=None if high is None else Bar(limit=high, at_least=False),
            note=f"of {len(samples[0])} messages",
        ),
    ]


def percentile(values: list[float], share: float) -> float:
    """Return the value that `share` per cent are not above."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * int(share) // 100) - 1)]


async def _ours(site: Ground, folder: Path, mode: Mode, messages: int) -> tuple[float, ...]:
    topology = _stamping(mode, folder.name)
    broker = await site.lay(topology)
    job = Job(
        folder=str(folder),
        url=site.url,
        topology=render(topology).decode(),
        tasks=SLOTS + messages,
        slots=SLOTS,
        runtime=mode.runtime,
        store=str(folder.parent / "images") if mode.runtime == "oci" else "",
    )
    child = asyncio.create_task(measured("engine-latency", job))
    try:
        await _until_pulling(site, topology, child)
        for number in range(SLOTS + messages):
            if "warm" in mode.fields:
                await asyncio.sleep(REFILL)
            stamp = b"%d" % time.time_ns()
            headers = {MSG_ID: digest("latency", number)}
            await broker.inject(
                [Entry(subject=broker.names.task("only"), body=stamp, headers=headers)]
            )
            await _until_settled(broker, child)
        return (await child).samples[SLOTS:]
    finally:
        child.cancel()
        await asyncio.gather(child, return_exceptions=True)
        await site.clear(topology)


async def _until_settled(broker: JetStreamBroker, child: "asyncio.Task[object]") -> None:
    """Wait until the message is acked: the next one finds an idle node."""
    while not child.done():
        await asyncio.sleep(PAUSE)
        backlog = await broker.backlog("only")
        if not (backlog.waiting or backlog.in_hand):
            return


async def _bare(folder: Path, mode: Mode) -> tuple[float, ...]:
    image = IMAGE if mode.runtime == "docker" else ""
    job = Job(folder=str(folder), tasks=20, command=STAMP, image=image)
    return (await measured("bare-latency", job)).samples


def _stamping(mode: Mode, name: str) -> Topology:
    """Return the topology of a mode whose program prints the time."""
    if "function" in mode.fields:
        return mode.topology(name, slots=SLOTS)
    if mode.fields.get("launch") == Launch.RESIDENT:
        return mode.topology(name, image=IMAGE, command=("/bin/sh", "-c", RESIDENT), slots=SLOTS)
    return mode.topology(name, image=IMAGE, command=STAMP, args=(), slots=SLOTS)


async def _until_pulling(site: Ground, topology: Topology, child: "asyncio.Task[object]") -> None:
    """Wait until the node asks for messages; what went wrong with it is told by the child."""
    names = Names(topology.name)
    async with asyncio.timeout(PATIENCE):
        while not child.done():
            info = await site.link.api(f"CONSUMER.INFO.{names.stream}.{names.consumer('only')}")
            if info["num_waiting"]:
                return
            await asyncio.sleep(0.05)
    await child
