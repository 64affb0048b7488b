"""The baseline of an idle node's memory: Python, uvloop and nats-py with one connection."""

import asyncio
import sys

import nats
import uvloop

from bench.children import Job


def run(job: Job) -> float:
    """Connect, say so, and idle until standard input ends."""
    return uvloop.run(_idle(job))


async def _idle(job: Job) -> float:
    client = await nats.connect(job.url)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await client.close()
    return 0.0
