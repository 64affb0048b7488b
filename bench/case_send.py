"""Case `send`: how quickly messages come in."""

import asyncio
import time
from functools import partial
from itertools import count
from pathlib import Path

import nats

from bench.children import ChildFailedError, command_line, environment
from bench.figures import Bar, Effort, Figure, alternate
from bench.ground import Ground, UnsoundError, chain, ground
from scalebox_actors.message import MSG_ID
from scalebox_actors.names import Names
from scalebox_actors.topology.model import Topology
from scalebox_actors.topology.render import render

TITLE = "`sbx-actor send … -`: one message per line of standard input"
HOW = """\
The whole command is timed, from its start to its exit, with lines of 100 bytes; every message has
an id and a PubAck, and is synced to disk. Baseline: nats-py's `js.publish`, awaited one by one,
into the same stream, without the time of starting anything. After each round the stream must hold
every line."""

BAR = Bar(limit=5000)
BODY = b"0123456789" * 9


async def run(folder: Path, effort: Effort) -> list[Figure]:
    """Measure messages per second of the command and of one-by-one publishing."""
    lines, singles = effort.pick(50_000, 20_000), effort.pick(2000, 600)
    numbers = count()
    async with ground(folder) as site:

        async def command() -> float:
            topology = chain(f"send{next(numbers)}", 1)
            return await _sent(site, folder, topology, lines)

        async def one_by_one() -> float:
            topology = chain(f"send{next(numbers)}", 1)
            return await _published(site, topology, singles)

        ours, baseline = await alternate(effort, partial(command), partial(one_by_one))
    return [
        Figure(
            name=f"send, {lines:,} lines",
            unit="messages/s",
            ours=ours,
            against="js.publish one by one",
            baseline=baseline,
            bar=BAR,
        )
    ]


async def _sent(site: Ground, folder: Path, topology: Topology, lines: int) -> float:
    broker = await site.lay(topology)
    file = folder / f"{topology.name}.yaml"
    text = b"".join(b"%09d %b\n" % (number, BODY) for number in range(lines))
    await asyncio.to_thread(file.write_bytes, render(topology))
    began = time.perf_counter()
    child = await asyncio.create_subprocess_exec(
        *(*command_line(), "send", str(file), "first", "-", "--nats", site.url),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )
    _, complaint = await child.communicate(text)
    seconds = time.perf_counter() - began
    if child.returncode != 0:
        raise ChildFailedError(f"send: {child.returncode}: {complaint.decode()[-300:]}")
    waiting = (await broker.backlog("first")).waiting
    if waiting != lines:
        raise UnsoundError(f"send: {waiting} of {lines} lines are there")
    await site.clear(topology)
    return lines / seconds


async def _published(site: Ground, topology: Topology, messages: int) -> float:
    await site.lay(topology)
    client = await nats.connect(site.url)
    stream = client.jetstream()
    subject = Names(topology.name).task("first")
    began = time.perf_counter()
    for number in range(messages):
        await stream.publish(subject, b"%09d %b" % (number, BODY), headers={MSG_ID: str(number)})
    seconds = time.perf_counter() - began
    await client.close()
    await site.clear(topology)
    return messages / seconds
