"""The container that the product would make for a message, for sides that run it by themselves."""

from pathlib import Path

from bench.children import Job
from scalebox_actors.spec import Ceiling, ContainerSpec, Frame, Home, container_spec
from scalebox_actors.topology.model import Module

ARGUMENTS = ("message 1", "{}")
"""Body and headers of a message, as a program gets them."""


def bare_spec(
    job: Job, name: str, work: Path, arguments: tuple[str, ...] = ARGUMENTS
) -> ContainerSpec:
    """Return a container of a job, with a work directory that is made if need be."""
    work.mkdir(parents=True, exist_ok=True)
    work.chmod(0o777)
    frame = Frame(
        name=name,
        home=Home(topology="bare", site="local", node="bench"),
        task_id=name,
        attempt=1,
        command=(*job.command, *arguments),
        env={"WORK_DIR": "/work"},
        work=str(work),
    )
    module = Module(name="only", image=job.image, command=job.command)
    return container_spec(module, frame, Ceiling())
