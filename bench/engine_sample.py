"""Our side before a long queue: the time of a sample, after the first tasks, not of the whole."""

import asyncio
import time

import uvloop

from bench.children import Answer, Job
from bench.engine_node import opened
from bench.machine import own_kib

LOOK = 0.001
WARM = 500
"""Tasks before the clock runs."""


def run(job: Job) -> Answer:
    """Return the seconds that `job.tasks` of many waiting tasks took, and the memory then."""
    return uvloop.run(_work(job))


async def _work(job: Job) -> Answer:
    async with opened(job) as node:
        work = asyncio.create_task(node.run())
        counts = node.journal.of("only")
        while not work.done() and counts.done < WARM:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(LOOK)
        began, first = time.perf_counter(), counts.done
        while not work.done() and counts.done < first + job.tasks:  # noqa: ASYNC110
            await asyncio.sleep(LOOK)
        each = (time.perf_counter() - began) / (counts.done - first)
        memory = own_kib() / 1024
        node.stop()
        await work
    return Answer(seconds=each * job.tasks, cpu=0.0, memory=memory)
