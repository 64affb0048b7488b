"""The runtime `oci` alone: start, wait and remove in a loop, without messages.

The image store is the one that the case has made; the state directory is this side's own.
"""

import asyncio
import time
from pathlib import Path

from bench.bare_spec import bare_spec
from bench.children import Job
from scalebox_actors.runtimes.oci import OciRuntime
from scalebox_actors.runtimes.oci_images import ImageStore


def run(job: Job) -> float:
    """Return the seconds for `job.tasks` containers, `job.slots` of them at once."""
    return asyncio.run(_work(job))


async def _work(job: Job) -> float:
    runtime = await OciRuntime.over(ImageStore(Path(job.store)), Path(job.folder) / "state")
    numbers = iter(range(job.tasks))

    async def worker(slot: int) -> None:
        for number in numbers:
            spec = bare_spec(job, f"bare-{number}", Path(job.folder) / f"work-{slot}")
            started = await runtime.adopt_or_start(spec)
            end = await started.wait()
            if end.code != 0:
                raise RuntimeError(f"{job.command} ended with {end.code}: {end.detail}")
            await runtime.remove(started.name)

    began = time.perf_counter()
    await asyncio.gather(*map(worker, range(job.slots)))
    seconds = time.perf_counter() - began
    await runtime.close()
    return seconds
