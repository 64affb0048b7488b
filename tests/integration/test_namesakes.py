"""Nodes of one name on one engine, each with a store of its own, as of two `run --ephemeral`."""

import asyncio
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from scalebox_actors.ports import Stray
from scalebox_actors.runtimes.docker import DockerRuntime

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]

PROGRAM = [
    sys.executable,
    "-c",
    "import sys; from scalebox_actors.cli import main; sys.exit(main())",
]
PATIENCE = 30.0


class Namesakes:
    """Processes that are nodes of one name, and the engine that they share."""

    def __init__(self, folder: Path, image: str, runtime: DockerRuntime) -> None:
        self.folder, self.runtime = folder, runtime
        self.topology = f"t{uuid.uuid4().hex[:12]}"
        self.file = folder / "topology.yaml"
        self.file.write_text(
            f"topology: {self.topology}\n"
            f"modules: {{a: {{image: '{image}', command: ['true'], warm: 1}}}}\n"
        )
        self.nodes: list[subprocess.Popen[bytes]] = []

    def start(self, store: str) -> subprocess.Popen[bytes]:
        """Start a node with a store of its own."""
        words = ["node", str(self.file), "--name", "n1", "--runtime", "docker"]
        with (self.folder / f"{store}.log").open("wb") as log:
            node = subprocess.Popen(  # noqa: S603 - the program under test
                [*PROGRAM, *words, "--store", str(self.folder / store)], stderr=log
            )
        self.nodes.append(node)
        return node

    async def waiting(self, store: str) -> set[str]:
        """Return the containers of a node that wait for a message."""
        base = str(self.folder / store / "work")
        return {s.name for s in await self._strays() if s.labels.get("sbx.base") == base}

    async def until(self, store: str, wanted: Callable[[set[str]], bool]) -> set[str]:
        """Wait until the containers of a node are as they should be, and return them."""
        async with asyncio.timeout(PATIENCE):
            while not wanted(found := await self.waiting(store)):  # noqa: ASYNC110 - the engine tells
                await asyncio.sleep(0.1)
        return found

    async def close(self) -> None:
        """End the nodes, and what they left."""
        for node in self.nodes:
            node.terminate()
        for node in self.nodes:
            await asyncio.to_thread(node.wait, PATIENCE)
        for stray in await self._strays():
            await self.runtime.remove(stray.name)

    async def _strays(self) -> list[Stray]:
        return await self.runtime.stray({"sbx.topology": self.topology})


@pytest.fixture
async def namesakes(
    tmp_path: Path, docker_socket: str, busybox_image: str
) -> AsyncIterator[Namesakes]:
    """Return nodes to be."""
    runtime = await DockerRuntime.open(f"unix://{docker_socket}")
    made = Namesakes(tmp_path, busybox_image, runtime)
    yield made
    await made.close()
    await runtime.close()


async def test_namesakes_keep_what_is_theirs(namesakes: Namesakes) -> None:
    """A second one takes no container from the first; the third removes what a killed one left."""
    namesakes.start("one")
    first = await namesakes.until("one", lambda found: len(found) == 1)
    second = namesakes.start("two")
    await namesakes.until("two", lambda found: len(found) == 1)
    beside = await namesakes.waiting("one")
    second.kill()
    namesakes.start("three")
    await namesakes.until("three", lambda found: len(found) == 1)
    left = await namesakes.until("two", lambda found: not found)

    assert beside == first == await namesakes.waiting("one")
    assert left == set()
