"""A host for slots with real shells: plain processes, an engine, or containers without a daemon."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from scalebox_actors.launch import workdir
from scalebox_actors.launch.environment import Surroundings
from scalebox_actors.launch.fresh import FreshLauncher
from scalebox_actors.launch.slots import SlotLauncher
from scalebox_actors.launch.workplace import Workplace
from scalebox_actors.message import Message
from scalebox_actors.ports import Launcher, Runtime, Task
from scalebox_actors.runtimes.docker import DockerRuntime
from scalebox_actors.runtimes.oci import OciRuntime
from scalebox_actors.runtimes.process import ProcessRuntime
from scalebox_actors.spec import Ceiling, Root
from scalebox_actors.topology.model import Duration, Launch, Module

KINDS = ("process", "docker", "oci")


class Lab:
    """A host with one kind of runtime, and launchers on it."""

    def __init__(self, runtime: Runtime, base: Path, image: str) -> None:
        self.runtime, self.image = runtime, image
        self.base = workdir.make_base(base)
        self.topology = f"t{uuid.uuid4().hex[:12]}"
        self._open: list[Launcher] = []
        self._number = 0

    @property
    def place(self) -> Workplace:
        """What a node's launchers share."""
        around = Surroundings(topology=self.topology, node="n1", ip="10.0.0.7")
        hooks = Root(path=str(self.base.parent / "hooks"))
        return Workplace(
            runtime=self.runtime,
            base=self.base,
            surroundings=around,
            modules=("a", "b"),
            ceiling=Ceiling(roots={"hooks": hooks}),
        )

    def module(self, script: str, **fields: Any) -> Module:
        """A module whose program is a shell script."""
        command = ("/bin/sh", "-c", script, "program") if script else ()
        given: dict[str, Any] = {"timeout": Duration(60), "sinks": ("b",), "command": command}
        return Module(name="a", image=self.image, launch=Launch.SLOT, **(given | fields))

    def slots(self, script: str, **fields: Any) -> SlotLauncher:
        """The launcher of such a module; closed at the end of the test."""
        launcher = SlotLauncher(self.module(script, **fields), self.place)
        self._open.append(launcher)
        return launcher

    def hooks(self, **scripts: str) -> dict[str, Any]:
        """What gives a module hooks: in containers where Scalebox looks, else by variables."""
        folder = self.base.parent / "hooks"
        folder.mkdir(exist_ok=True)
        for name, text in scripts.items():
            path = folder / f"{name}.sh"
            path.write_text(f"#!/bin/sh\n{text}\n")
            path.chmod(0o755)
        if self.runtime.work_path:
            return {"command": (), "mounts": ("hooks:.:/app/bin",)}
        env = {f"ACTION_{name.upper()}": str(folder / f"{name}.sh") for name in scripts}
        return {"command": (), "env": env}

    def fresh(self, script: str, **fields: Any) -> FreshLauncher:
        """The same module, launched afresh for every message."""
        return FreshLauncher(self.module(script, **fields), self.place)

    def task(self, body: str | bytes = b"x", **headers: str) -> Task:
        """One task after the other."""
        self._number += 1
        data = body.encode() if isinstance(body, str) else body
        message = Message(module="a", id=f"m{self._number}", body=data, headers=headers)
        return Task(message=message)

    async def left(self) -> list[str]:
        """Containers and folders that are there."""
        strays = await self.runtime.stray({"sbx.topology": self.topology})
        return [*(s.name for s in strays), *(p.name for p in self.base.iterdir())]

    async def close(self) -> None:
        """End what is open; nothing may be left."""
        for launcher in self._open:
            await launcher.close()


@asynccontextmanager
async def slot_lab(request: pytest.FixtureRequest, place: Path) -> AsyncIterator[Lab]:
    """Open a host with the runtime that is asked for; at the end nothing may be left on it."""
    runtime: Runtime
    if request.param == "process":
        runtime, image = await ProcessRuntime.open(place / "state"), "none"
    elif request.param == "oci":
        images = request.getfixturevalue("oci_images")
        image = images.all()[0][0].name
        runtime = await OciRuntime.over(images, place / "state")
    else:
        image = request.getfixturevalue("busybox_image")
        runtime = await DockerRuntime.open()
    made = Lab(runtime, place / "work", image)
    try:
        yield made
        await made.close()

        assert await made.left() == []
    finally:
        for stray in await runtime.stray({"sbx.topology": made.topology}):
            await runtime.remove(stray.name)
        await runtime.close()


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition of the world outside."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - files and processes send no events
            await asyncio.sleep(0.01)


def processes(text: str) -> list[str]:
    """The processes of this host whose command line holds a text."""
    found = []
    for place in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            line = (place / "cmdline").read_bytes() if place.name.isdigit() else b""
            if text.encode() in line and b"pytest" not in line and b"slot_agent" not in line:
                found.append(line.decode("utf-8", "replace"))
    return found
