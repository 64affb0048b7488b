"""Two modules in a row, in function mode: both at one site, or a link between them."""

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

from bench.children import Job
from scalebox_actors.broker import Credentials, JetStreamBroker, connect
from scalebox_actors.cli import mainloop
from scalebox_actors.names import Names
from scalebox_actors.node import Node, Settings
from scalebox_actors.topology.load import load
from scalebox_actors.topology.model import Topology

LOOK = 0.002


def run(job: Job) -> float:
    """Return the seconds in which the nodes of all sites worked off `job.tasks` tasks."""
    return mainloop.run(_work(job))


async def _work(job: Job) -> float:
    topology = load(job.topology.encode(), path="bench")
    urls = (job.url, job.far)[: len(topology.site_names)]
    async with AsyncExitStack() as stack:
        nodes = [
            await _node(stack, topology, site, url, Path(job.folder))
            for site, url in zip(topology.site_names, urls, strict=True)
        ]
        began = time.perf_counter()
        work = [asyncio.create_task(node.run()) for node in nodes]
        while not _finished(nodes, job.tasks) and not any(task.done() for task in work):  # noqa: ASYNC110 - they count, they tell nobody
            await asyncio.sleep(LOOK)
        seconds = time.perf_counter() - began
        for node in nodes:
            node.stop()
        await asyncio.gather(*work)
    return seconds


async def _node(
    stack: AsyncExitStack, topology: Topology, site: str, url: str, folder: Path
) -> Node:
    link = await connect(
        url, name="bench relay", events=_ignore, credentials=Credentials(insecure=True)
    )
    stack.push_async_callback(link.close)
    broker = await JetStreamBroker.open(link, Names(topology.name, site))
    settings = Settings(name="bench", base=folder / site, folder=Path(__file__).parent)
    return Node(topology, broker, None, settings)


def _finished(nodes: list[Node], tasks: int) -> bool:
    """Whether all is committed, acked and cleared away."""
    counts = [node.journal.of(name) for node in nodes for name in node.actors]
    return sum(c.done for c in counts) >= tasks and not any(c.running for c in counts)


def _ignore(event: str, detail: str) -> None:
    """Say nothing: what the nodes did is checked by what they stored."""
