"""Our side of a latency: a node, and when its programs began for which message."""

import asyncio

from bench.children import Answer, Job
from bench.engine_node import LOOK, opened
from scalebox_actors.cli import mainloop
from scalebox_actors.records import RunRecord


def run(job: Job) -> Answer:
    """Return the milliseconds from a message's stamp to its program's, for `job.tasks` of them."""
    return mainloop.run(_work(job))


async def _work(job: Job) -> Answer:
    samples: list[float] = []

    def note(record: RunRecord) -> None:
        samples.append((_began(record) - int(record.body)) / 1e6)

    async with opened(job) as node:
        node.journal.watch = note
        work = asyncio.create_task(node.run())
        counts = node.journal.of("only")
        while not work.done() and (  # noqa: ASYNC110 - it tells nobody
            len(samples) < job.tasks or counts.running
        ):
            await asyncio.sleep(LOOK)
        node.stop()
        await work
    return Answer(seconds=0.0, cpu=0.0, samples=tuple(samples))


def _began(record: RunRecord) -> int:
    """Return when a program began: as it printed, a function as it was called."""
    return int(record.stdout) if record.stdout.strip() else round(record.started * 1e9)
