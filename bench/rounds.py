"""A round of our own side: messages wait for a module, and a node works them off."""

from pathlib import Path

import msgspec

from bench.children import Job, measured
from bench.ground import Ground, inject, program
from scalebox_actors.cli.memory import memory_base
from scalebox_actors.topology.model import Topology
from scalebox_actors.topology.render import render


def memory(folder: Path) -> Path:
    """Return a folder where `--work memory` makes its own; on disk where that is not safe."""
    base = memory_base(folder)
    base.mkdir(parents=True, exist_ok=True)
    return base


async def engine_seconds(site: Ground, job: Job, runtime: str) -> float:
    """Let messages wait for a program and return the seconds in which a node worked them off."""
    topology = program("programs", job.slots, *job.command, image=job.image or "none")
    return await worked_off(site, topology, job, runtime)


async def worked_off(site: Ground, topology: Topology, job: Job, runtime: str) -> float:
    """Let messages wait for `only` and return the seconds in which a node worked them off."""
    broker = await site.lay(topology)
    await inject(broker, "only", job.warm + job.tasks)
    text = render(topology).decode()
    given = msgspec.structs.replace(job, url=site.url, topology=text, runtime=runtime)
    answer = await measured("engine", given)
    await site.check(topology, records=job.warm + job.tasks)
    await site.clear(topology)
    return answer.seconds
