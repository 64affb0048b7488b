"""The runtime `oci` alone: start, wait and remove in a loop, without messages.

The image store is the one that the case has made; the state directory is this side's own.
"""

import asyncio
import time
from pathlib import Path

from bench.children import Job
from scalebox_actors.runtimes.oci import OciRuntime
from scalebox_actors.runtimes.oci_images import ImageStore
from scalebox_actors.spec import Ceiling, ContainerSpec, Frame, Home, container_spec
from scalebox_actors.topology.model import Module


def spec_of(job: Job, name: str, slot: int) -> ContainerSpec:
    """Return the container that the product would make for a message."""
    work = Path(job.folder) / f"work-{slot}"
    work.mkdir(exist_ok=True)
    work.chmod(0o777)
    frame = Frame(
        name=name,
        home=Home(topology="bare", site="local", node="bench"),
        task_id=name,
        attempt=1,
        command=(*job.command, "message 1", "{}"),
        env={"WORK_DIR": "/work"},
        work=str(work),
    )
    module = Module(name="only", image=job.image, command=job.command)
    return container_spec(module, frame, Ceiling())


def run(job: Job) -> float:
    """Return the seconds for `job.tasks` containers, `job.slots` of them at once."""
    return asyncio.run(_work(job))


async def _work(job: Job) -> float:
    runtime = await OciRuntime.over(ImageStore(Path(job.store)), Path(job.folder) / "state")
    numbers = iter(range(job.tasks))

    async def worker(slot: int) -> None:
        for number in numbers:
            started = await runtime.adopt_or_start(spec_of(job, f"bare-{number}", slot))
            end = await started.wait()
            if end.code != 0:
                raise RuntimeError(f"{job.command} ended with {end.code}: {end.detail}")
            await runtime.remove(started.name)

    began = time.perf_counter()
    await asyncio.gather(*map(worker, range(job.slots)))
    seconds = time.perf_counter() - began
    await runtime.close()
    return seconds
