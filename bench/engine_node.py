"""Our side: a node as `sbx-actor node` wires it, from its first pull to its last ack."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bench.children import Job
from scalebox_actors.broker import JetStreamBroker, connect
from scalebox_actors.cli import mainloop
from scalebox_actors.names import Names
from scalebox_actors.node import Node, Settings
from scalebox_actors.ports import Runtime
from scalebox_actors.runtimes.choose import open_runtime
from scalebox_actors.topology.load import load

LOOK = 0.002
BLUR = 0.002
"""What is measured may be longer by such a share: the end is looked for, nobody tells it."""


def run(job: Job) -> float:
    """Return the seconds in which a node worked off `job.tasks` tasks."""
    return mainloop.run(_work(job))


async def _work(job: Job) -> float:
    async with opened(job) as node:
        return await _timed(node, job)


@asynccontextmanager
async def opened(job: Job) -> AsyncIterator[Node]:
    """Wire a node for a job."""
    topology = load(job.topology.encode(), path="bench")
    folder = Path(job.folder)
    link = await connect(job.url, name="bench node", events=_ignore)
    runtime: Runtime | None = None
    if job.runtime:
        images = Path(job.store) if job.store else None
        runtime = await open_runtime(job.runtime, state=folder / "state", images=images)
    try:
        broker = await JetStreamBroker.open(link, Names(topology.name))
        settings = Settings(name="bench", base=folder / "work", folder=Path(__file__).parent)
        yield Node(topology, broker, runtime, settings)
    finally:
        if runtime is not None:
            await runtime.close()
        await link.close()


async def _timed(node: Node, job: Job) -> float:
    began, before = time.perf_counter(), 0
    work = asyncio.create_task(node.run())
    if job.warm:
        while not (work.done() or _done(node) >= job.warm):  # noqa: ASYNC110 - as below
            await asyncio.sleep(LOOK / 10)
        began, before = time.perf_counter(), _done(node)
    tasks = job.warm + job.tasks
    while not (work.done() or _finished(node, tasks)):  # noqa: ASYNC110 - it counts, it tells nobody
        # Looking is work as well: no more of it than the figure's third digit needs.
        await asyncio.sleep(max(LOOK, (time.perf_counter() - began) * BLUR))
    seconds = time.perf_counter() - began
    node.stop()
    await work
    # They end in groups: more than were waited for may have ended when the clock began to run.
    return seconds * job.tasks / max(1, tasks - before)


def _finished(node: Node, tasks: int) -> bool:
    """Whether all is committed, acked and cleared away."""
    counts = [node.journal.of(name) for name in node.actors]
    return _done(node) >= tasks and not any(c.running for c in counts)


def _done(node: Node) -> int:
    return sum(node.journal.of(name).done for name in node.actors)


def _ignore(event: str, detail: str) -> None:
    """Say nothing: what a node did is checked by what it stored."""
