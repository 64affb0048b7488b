"""A host with one kind of runtime, and a program on it that stays and does what it is told."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from scalebox_actors.launch import workdir
from scalebox_actors.launch.environment import Surroundings
from scalebox_actors.launch.resident import ResidentLauncher
from scalebox_actors.launch.workplace import Workplace
from scalebox_actors.message import Message
from scalebox_actors.ports import Runtime, Task
from scalebox_actors.records import Outcome
from scalebox_actors.runtimes.docker import DockerRuntime
from scalebox_actors.runtimes.oci import OciRuntime
from scalebox_actors.runtimes.process import ProcessRuntime
from scalebox_actors.topology.model import Duration, Keep, Module

PROGRAM = r"""
life=$(cat /proc/sys/kernel/random/uuid)
answer() { printf '{"id":"%s"%s}\n' "$id" "$1"; }
eval "$START"
while IFS= read -r line; do
  case $line in '{"ping":'*) line=${line#*:}; echo "{\"pong\":${line%\}}}"; continue;; esac
  id=${line#*'"id":"'}; id=${id%%'"'*}
  body=${line#*'"body":"'}; body=${body%%'"'*}
  work=${line#*'"work":"'}; work=${work%%'"'*}
  case $body in
    life) answer ",\"sink\":[{\"body\":\"$life\"}]";;
    size) answer ",\"sink\":[{\"body\":\"$(wc -c <"$work/body") $(ls "$work" | tr '\n' ' ')\"}]";;
    env) answer ",\"sink\":[{\"body\":\"$MODULE_NAME $SLOT_SEQ ${TASK_ID-none}\"}]";;
    'exit '*) answer ",\"exit\":${body#exit },\"detail\":\"said so\",\"log\":\"line\\n\"";;
    'die '*) echo "dying of $id" >&2; exit "${body#die }";;
    'raw '*) eval "${body#raw }";;
    hang) sleep 1000;;
    *) answer ",\"sink\":[{\"body\":\"$body\"}]";;
  esac
done
"""


class Lab:
    """A host with one kind of runtime, on which modules with a resident program are launched."""

    def __init__(self, runtime: Runtime, place: Path, image: str) -> None:
        self.topology = f"t{uuid.uuid4().hex[:12]}"
        self.runtime, self.image = runtime, image
        self.base = workdir.make_base(place / "work")
        self._open: list[ResidentLauncher] = []

    def launcher(
        self, start: str = "", *, slots: int = 1, timeout: float = 60, keep: Keep | None = None
    ) -> ResidentLauncher:
        """Return a launcher of the program, which executes `start` first."""
        module = Module(
            name="m",
            image=self.image,
            command=("/bin/sh", "-c", PROGRAM),
            env={"START": start},
            slots=slots,
            timeout=Duration(timeout),
            keep=keep or Keep(),
        )
        return self.launch(module)

    def launch(self, module: Module) -> ResidentLauncher:
        """Return the launcher of a module."""
        place = Workplace(
            runtime=self.runtime,
            base=self.base,
            surroundings=Surroundings(topology=self.topology, node="n1"),
            modules=("m", "next"),
        )
        launcher = ResidentLauncher(module, place)
        self._open.append(launcher)
        return launcher

    async def names(self) -> list[str]:
        """Return the containers that there are."""
        return [stray.name for stray in await self.runtime.stray({"sbx.topology": self.topology})]

    async def close(self) -> None:
        """End all programs and see that nothing of them is left."""
        for launcher in self._open:
            await launcher.close()

        assert await self.names() == []
        assert list(self.base.iterdir()) == []
        await self.runtime.close()


@asynccontextmanager
async def resident_lab(request: pytest.FixtureRequest, place: Path) -> AsyncIterator[Lab]:
    """Open a host with the runtime that is asked for; nothing may be left on it afterwards."""
    runtime: Runtime
    image = "img"
    if request.param == "docker":
        image = request.getfixturevalue("busybox_image")
        runtime = await DockerRuntime.open()
    elif request.param == "oci":
        images = request.getfixturevalue("oci_images")
        image = images.all()[0][0].name
        runtime = await OciRuntime.over(images, place / "state")
    else:
        runtime = await ProcessRuntime.open(place / "state")
    made = Lab(runtime, place, image)
    yield made
    await made.close()


def task(body: str | bytes, name: str = "") -> Task:
    """Return a task with a body."""
    data = body if isinstance(body, bytes) else body.encode()
    return Task(message=Message(module="m", id=name or uuid.uuid4().hex, body=data))


async def ask(launcher: ResidentLauncher, *bodies: str) -> list[Outcome]:
    """Run a task for every body, at once."""
    return await asyncio.gather(*(launcher.run(task(body)) for body in bodies))


def sent(outcome: Outcome) -> list[str]:
    """Return the bodies that a run emits."""
    return [emission.body.decode() for emission in outcome.emissions]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition of the world outside."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - programs that stay send no events
            await asyncio.sleep(0.01)


def act(does: str) -> str:
    """Return a function of the program; what a body says itself may hold no quotes."""
    return f"act() {{ {does}; }}\n"


READY = """echo '{"ready":true,"in_flight":4}'"""
BEATING = """echo '{"ready":true,"heartbeat":1}'"""
