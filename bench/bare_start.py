"""The baseline of a start: a script that starts the same program, or container, and nothing else.

What it takes is the interpreter, the imports and the engine; `sbx-actor run` adds a server,
streams, a node and the message.
"""

import asyncio
import subprocess

from bench.children import Job


def run(job: Job) -> float:
    """Start one program or container and wait for it; the caller holds the watch."""
    if job.image:
        asyncio.run(_container(job))
    else:
        subprocess.run(job.command, check=True)  # noqa: S603 - the caller's own program
    return 0.0


async def _container(job: Job) -> None:
    from bench.bare_containers import body, engine  # noqa: PLC0415 - not for the other way

    async with engine() as docker:
        config = await body(job, "bare-start")
        config["Labels"] = {"sbx.topology": "bare-start"}
        container = await docker.containers.create(config, name="bare-start")
        try:
            await container.start()
            await container.wait()
        finally:
            await container.delete(force=True, v=True)
