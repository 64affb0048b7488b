"""The baseline of a latency: a script starts the same program, or container, and nothing else."""

import asyncio
import time

from bench.children import Answer, Job

PAUSE = 0.01


def run(job: Job) -> Answer:
    """Return the milliseconds from before a start to the program's own stamp, one by one."""
    return asyncio.run(_containers(job) if job.image else _processes(job))


async def _processes(job: Job) -> Answer:
    samples = []
    for _ in range(job.tasks):
        began = time.time_ns()
        child = await asyncio.create_subprocess_exec(
            *job.command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
        )
        told, _ = await child.communicate()
        samples.append((int(told) - began) / 1e6)
        await asyncio.sleep(PAUSE)
    return Answer(seconds=0.0, cpu=0.0, samples=tuple(samples))


async def _containers(job: Job) -> Answer:
    from bench.bare_containers import body, engine  # noqa: PLC0415 - not for processes

    samples = []
    async with engine() as docker:
        config = await body(job, "bare-latency", arguments=())
        for number in range(job.tasks):
            began = time.time_ns()
            container = await docker.containers.create(config, name=f"bare-latency-{number}")
            try:
                await container.start()
                await container.wait()
                told = "".join(await container.log(stdout=True))
            finally:
                await container.delete(force=True, v=True)
            samples.append((int(told) - began) / 1e6)
    return Answer(seconds=0.0, cpu=0.0, samples=tuple(samples))
