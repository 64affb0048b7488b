"""A host with one kind of runtime, and launchers on it whose containers wait for a message."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from scalebox_actors.launch import workdir
from scalebox_actors.launch.environment import Surroundings
from scalebox_actors.launch.fresh import FreshLauncher
from scalebox_actors.launch.workplace import Workplace
from scalebox_actors.message import Message
from scalebox_actors.names import waits
from scalebox_actors.ports import Runtime, Task
from scalebox_actors.records import Outcome
from scalebox_actors.runtimes.docker import DockerRuntime
from scalebox_actors.runtimes.oci import OciRuntime
from scalebox_actors.runtimes.oci_images import ImageStore
from scalebox_actors.runtimes.process import ProcessRuntime
from scalebox_actors.topology.model import Duration, Module


class Host:
    """A host with one kind of runtime, and launchers of modules on it."""

    def __init__(self, kind: str, place: Path, image: str, images: ImageStore | None) -> None:
        self.kind, self.image = kind, image
        self._place, self._images = place, images
        self.base = workdir.make_base(place / "base")
        self.topology = f"t{uuid.uuid4().hex[:12]}"
        self.runtime: Runtime
        self._launchers: list[FreshLauncher] = []

    async def open(self) -> None:
        """Connect to the runtime."""
        if self.kind == "process":
            self.runtime = await ProcessRuntime.open(self._place / "state")
        elif self._images is not None:
            self.runtime = await OciRuntime.over(self._images, self._place / "state")
        else:
            self.runtime = await DockerRuntime.open()

    async def launcher(self, *command: str, warm: int = 1, **more: object) -> FreshLauncher:
        """Return the launcher of a module whose warm containers wait."""
        module = Module(
            name="a",
            image=self.image,
            command=command,
            warm=warm,
            timeout=Duration(60),
        )
        module = msgspec.structs.replace(module, **more)
        place = Workplace(
            runtime=self.runtime,
            base=self.base,
            surroundings=Surroundings(topology=self.topology, node="n1", ip="127.0.0.1"),
            modules=("a",),
        )
        made = FreshLauncher(module, place)
        made.open()
        self._launchers.append(made)
        return made

    async def full(self, launcher: FreshLauncher) -> FreshLauncher:
        """Wait until all that are to wait do so."""
        await until(lambda: launcher.states.get("ready") == launcher._module.warm)
        return launcher

    async def names(self) -> set[str]:
        """Return the containers that there are."""
        strays = await self.runtime.stray({"sbx.topology": self.topology})
        return {stray.name for stray in strays}

    async def names_with(self, *wanted: str) -> set[str]:
        """Wait until there are containers of these names, and return all."""
        async with asyncio.timeout(20):
            while not (found := await self.names()).issuperset(wanted):  # noqa: ASYNC110 - an engine
                await asyncio.sleep(0.02)
        return found

    async def close(self) -> None:
        """End everything; raises if a launcher left something."""
        for launcher in self._launchers:
            await launcher.close()
        left = [name for name in await self.names() if waits(name)]
        for name in await self.names():
            await self.runtime.remove(name)
        await self.runtime.close()
        assert left == []


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition of the world outside."""
    async with asyncio.timeout(40):
        while not condition():  # noqa: ASYNC110 - containers and files send no events here
            await asyncio.sleep(0.01)


@asynccontextmanager
async def warm_host(request: pytest.FixtureRequest, place: Path) -> AsyncIterator[Host]:
    """Open a host with the runtime that is asked for; at its end nothing may wait on it."""
    image = request.getfixturevalue("busybox_image") if request.param == "docker" else "img"
    images = request.getfixturevalue("oci_images") if request.param == "oci" else None
    image = "sbx/test-busybox:1" if images is not None else image
    made = Host(request.param, place, image, images)
    await made.open()
    yield made
    await made.close()


def task(name: str = "m1", body: bytes = b"x", attempt: int = 1, slot: int = 3) -> Task:
    """Return a task with a body."""
    message = Message(module="a", id=name, body=body, headers={"Key": 'v "1"'}, from_module="z")
    return Task(message=message, attempt=attempt, slot=slot)


async def done(launcher: FreshLauncher, what: Task) -> Outcome:
    """Run a task and clear what it left."""
    outcome = await launcher.run(what)
    await launcher.clear(what, outcome)
    return outcome


def files_of(base: Path) -> Sequence[str]:
    """Return what is in a directory."""
    return sorted(path.name for path in base.iterdir())
