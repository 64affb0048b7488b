"""A host on which containers wait, and one launcher that keeps them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from unit.gatekeeper import Gatekeeper

from scalebox_actors.launch import workdir
from scalebox_actors.launch.environment import Surroundings
from scalebox_actors.launch.fresh import FreshLauncher
from scalebox_actors.launch.workplace import Workplace
from scalebox_actors.message import Message
from scalebox_actors.names import waits
from scalebox_actors.ports import Task
from scalebox_actors.spec import ContainerSpec
from scalebox_actors.testing.scripted import Host, ScriptedRuntime
from scalebox_actors.topology.model import Duration, Module


def emits(spec: ContainerSpec, work: Path) -> int:
    """Emit the body."""
    (work / "sink-tasks.txt").write_text(f"{spec.command[1]}\n")
    return 0


class World:
    """A host, and one launcher with warm containers on it."""

    def __init__(self, base: Path, module: Module) -> None:
        self.keeper = Gatekeeper(emits)
        self.host = Host(program=self.keeper)
        self.keeper.host = self.host
        self.runtime = ScriptedRuntime(self.host)
        self.base = workdir.make_base(base)
        place = Workplace(
            runtime=self.runtime,
            base=self.base,
            surroundings=Surroundings(topology="t", node="n1"),
            modules=("a",),
        )
        self.launcher = FreshLauncher(module, place)
        self.pool = self.launcher._warm

    async def full(self) -> None:
        """Begin, and wait until the pool is full."""
        self.launcher.open()
        await until(lambda: self.pool.states["ready"] == self.launcher._module.warm)

    @property
    def waiting(self) -> set[str]:
        """The containers that wait."""
        return {name for name, made in self.host.containers.items() if waits(name) and not made.end}


MODULE = Module(name="a", image="i", command=("p",), warm=2, timeout=Duration(10))


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition that tells nobody."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.005)


def task(name: str = "m1", body: bytes = b"x") -> Task:
    """Return a task."""
    return Task(message=Message(module="a", id=name, body=body))


@contextlib.asynccontextmanager
async def full_world(base: Path) -> AsyncIterator[World]:
    """A host on which two containers wait; at the end none of them may be left."""
    made = World(base, MODULE)
    await made.full()
    yield made
    await made.launcher.close()
    assert made.waiting == set()
    assert not [path for path in made.base.iterdir() if waits(path.name)]
