"""The baseline of the process runtime: asyncio starts a program, waits, starts the next."""

import asyncio
import time

from bench.children import Job


def run(job: Job) -> float:
    """Return the seconds for `job.tasks` programs, `job.slots` of them at once."""
    return asyncio.run(_work(job))  # not uvloop: starting processes is what it is slow at


async def _work(job: Job) -> float:
    numbers = iter(range(job.tasks))
    null = asyncio.subprocess.DEVNULL

    async def worker() -> None:
        for _ in numbers:
            child = await asyncio.create_subprocess_exec(
                *job.command, stdin=null, stdout=null, stderr=null
            )
            if await child.wait() != 0:
                raise RuntimeError(f"{job.command} ended with {child.returncode}")

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(job.slots)))
    return time.perf_counter() - began
