"""Messages into a module's queue: stored as `send` does and, if it is far, carried by a node."""

import asyncio
import time
from pathlib import Path

from bench.children import Job
from scalebox_actors.broker import Credentials, JetStreamBroker, connect
from scalebox_actors.cli import mainloop
from scalebox_actors.cli.sending import Sending
from scalebox_actors.limits import BATCH_MESSAGES
from scalebox_actors.names import Names, digest
from scalebox_actors.node import Node, Settings
from scalebox_actors.topology.load import load
from scalebox_actors.topology.model import Topology

LOOK = 0.002


def run(job: Job) -> float:
    """Return the seconds from the first message to the last that is stored where it goes."""
    return mainloop.run(_work(job))


async def _work(job: Job) -> float:
    topology = load(job.topology.encode(), path="bench")
    link = await connect(
        job.url, name="bench link", events=_ignore, credentials=Credentials(insecure=True)
    )
    broker = await JetStreamBroker.open(link, Names(topology.name, topology.site_names[0]))
    settings = Settings(name="bench", base=Path(job.folder), folder=Path(__file__).parent)
    node = Node(topology, broker, None, settings)
    node.actors.clear()  # what arrives is counted in the queue, and nobody takes it from there
    work = asyncio.create_task(node.run())
    began = time.perf_counter()
    await _send(topology, broker, job.tasks)
    carried = node.couriers.get("far")
    while carried is not None and carried.carried < job.tasks and not work.done():  # noqa: ASYNC110 - it counts, it tells nobody
        await asyncio.sleep(LOOK)
    seconds = time.perf_counter() - began
    node.stop()
    await work
    await link.close()
    return seconds


async def _send(topology: Topology, broker: JetStreamBroker, count: int) -> None:
    """Store messages as `send` does with lines that are piped to it."""
    sending = Sending(
        names=broker.names, topology=topology, module="second", body_limit=broker.body_limit
    )
    for start in range(0, count, BATCH_MESSAGES):
        last = min(start + BATCH_MESSAGES, count)
        entries = [sending.entry(body(number)) for number in range(start, last)]
        await broker.inject([entry for entry, _ in sending.packed(entries)])


def body(number: int) -> bytes:
    """Return a small message, as a pipeline might send it: half of it is like the others."""
    return b'{"file": "run-%06d/part-%03d.fits", "offset": %d, "sum": "%b"}' % (
        number // 100,
        number % 100,
        number * 4096,
        digest("sum", number).encode(),
    )


def _ignore(event: str, detail: str) -> None:
    """Say nothing: what was stored is counted in the streams."""
