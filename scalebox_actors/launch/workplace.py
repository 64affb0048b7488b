"""What all launchers of a node share: where runs take place, how they are named and spelt out."""

import asyncio
from pathlib import Path

import msgspec

from scalebox_actors import contract
from scalebox_actors.errors import RuntimeUnavailable, SpecRejected
from scalebox_actors.launch.environment import Surroundings
from scalebox_actors.launch.gpus import Gpus, devices_of, gpu_variables
from scalebox_actors.launch.paths import Paths
from scalebox_actors.launch.spares import Spares
from scalebox_actors.launch.workdir import WorkDir
from scalebox_actors.limits import KIB
from scalebox_actors.names import run_name
from scalebox_actors.pool import Share, share_text
from scalebox_actors.ports import Runtime, Task
from scalebox_actors.spec import DOOR, Ceiling, Home, Mount, resolve_mount
from scalebox_actors.topology.model import Module

SMALL_BODY = 64 * KIB


class Workplace(msgspec.Struct, frozen=True, kw_only=True):
    """What all launchers of a node share."""

    runtime: Runtime
    base: Path
    """Where work directories are made; see `workdir.make_base`."""
    surroundings: Surroundings
    ceiling: Ceiling = Ceiling()
    gpus: Gpus = Gpus()
    standing: tuple[Share, ...] = ()
    """What each container that stays has of the node, for as long as the node lives."""
    lack: str = ""
    """Why there is no room on this node for the containers that stay."""
    modules: tuple[str, ...] = ()
    """All modules of the topology: what the comma rule of task files knows."""
    ahead: asyncio.Semaphore = msgspec.field(default_factory=lambda: asyncio.Semaphore(1))
    """Taken by whoever starts a container before its message comes: few at once on a node."""

    def name(self, task: Task) -> str:
        """Return the name under which a task's run is found."""
        return run_name(self.surroundings.topology, *task.key)

    def directory(self, task: Task, spares: Spares | None = None) -> WorkDir:
        """Return the work directory of a task's attempt."""
        node = self.surroundings.node
        return WorkDir(self.base, self.name(task), task.attempt, node, spares)

    def inside(self, directory: WorkDir) -> str:
        """Return a work directory's path as the program sees it."""
        return self.runtime.work_path or str(directory)

    def door(self, folder: Path) -> Mount:
        """Return the mount by which a container that stays sees a folder of ours, read-only."""
        target = DOOR if self.runtime.work_path else str(folder)
        return Mount(source=str(folder), target=target, ours=True)

    def home(self, share: Share) -> Home:
        """Return whose a run is that has this share of the node."""
        around = self.surroundings
        return Home(
            topology=around.topology,
            site=around.site,
            node=around.node,
            base=str(self.base),
            devices=devices_of(share.gpus, self.gpus),
            share=share_text(share) if share != Share() else "",
        )

    def variables(self, share: Share) -> dict[str, str]:
        """Return the variables that come with a share of the node."""
        return gpu_variables(share.gpus, self.gpus, contained=bool(self.runtime.work_path))

    def require_room(self) -> None:
        """Raise SpecRejected if the node has no room for the containers that stay."""
        if self.lack:
            raise SpecRejected(self.lack)

    def share_of(self, slot: int) -> Share:
        """Return what the container that stays in a slot has of the node."""
        return self.standing[slot] if slot < len(self.standing) else Share()

    def paths(self, module: Module, directory: WorkDir) -> Paths:
        """Return how a program's paths correspond to those of the host."""
        return Paths(
            work=str(directory),
            work_inside=self.runtime.work_path,
            mounts=tuple(resolve_mount(text, self.ceiling) for text in module.mounts),
        )


def argv(module: Module, task: Task, work: str) -> tuple[str, ...]:
    """Return what is executed for a task; raises BadMessage if its body cannot be an argument."""
    message = task.message
    arguments = contract.arguments(
        module.args,
        body=message.body,
        headers=message.contract_headers,
        task_id=message.id,
        work=work,
    )
    return (*module.command, *arguments)


def is_small(task: Task) -> bool:
    """Whether a task's few small files cost less than the way to a thread and back."""
    return not task.members and len(task.message.body) <= SMALL_BODY


async def prepare(directory: WorkDir, task: Task) -> None:
    """Make a task's work directory; raises RuntimeUnavailable if the host cannot."""
    try:
        if is_small(task):
            directory.prepare(task)
        else:
            await asyncio.to_thread(directory.prepare, task)
    except OSError as error:  # the host's disk is full or broken; the task is not to blame
        reason = f"work directory {directory.path}: {error.strerror}"
        raise RuntimeUnavailable(reason) from error
