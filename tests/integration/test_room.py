"""Room on a node with a real engine: GPUs as device files, limits that are never over-committed."""

import asyncio
import contextlib
import os
import stat
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from scalebox_actors.names import Names
from scalebox_actors.node import Node, Settings
from scalebox_actors.pool import Room, Share
from scalebox_actors.records import RunRecord
from scalebox_actors.runtimes.docker import DockerRuntime
from scalebox_actors.testing.memory import MemoryBroker
from scalebox_actors.topology.model import Limits, Module, Topology

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(120),
    pytest.mark.skipif(
        os.geteuid() != 0 and not os.environ.get("SBX_TESTS_MUST_RUN"),
        reason="only root can make device files",
    ),
]

SEEN = """
set -- $(ls /dev | grep sbxgpu)
printf '{"body": "%s %s %s %s"}\\n' "$SBX_GPU" "$CUDA_VISIBLE_DEVICES" "$#" "$1" > sink-tasks.jsonl
[ -z "$1" ] || : > /dev/$1 || exit 9
sleep 0.5
"""

SLEEP = ("/bin/sh", "-c", "sleep 300", "sh")


@pytest.fixture
def devices() -> Iterator[str]:
    """Return the pattern of two device files that nobody needs."""
    mark = uuid.uuid4().hex[:8]
    paths = [f"/dev/sbxgpu{mark}-{index}" for index in (3, 5)]
    for path in paths:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))  # as /dev/null
    yield f"/dev/sbxgpu{mark}-{{}}"
    for path in paths:
        Path(path).unlink()


class Stand:
    """A node on a real engine, with a broker in memory."""

    def __init__(self, base: Path, image: str, room: Room, device: str) -> None:
        name = f"t{uuid.uuid4().hex[:8]}"
        command = ("/bin/sh", "-c", SEEN, "sh")
        wishes = {"one": Limits(gpus=1), "none": Limits(), "both": Limits(gpus=2, cpus=1)}
        modules = {
            key: Module(name=key, image=image, command=command, slots=4, limits=limits)
            for key, limits in wishes.items()
        }
        self.topology = Topology(name=name, modules=modules)
        self.broker = MemoryBroker(Names(name), list(modules))
        self.settings = Settings(name="n1", base=base, room=room, gpu_devices=(device,))
        self.records: list[RunRecord] = []

    @contextlib.asynccontextmanager
    async def node(self) -> AsyncIterator[Node]:
        """A node at work, and nothing left of it afterwards."""
        runtime = await DockerRuntime.open()
        node = Node(self.topology, self.broker, runtime, self.settings)
        node.journal.watch = self.records.append
        work = asyncio.create_task(node.run())
        yield node
        node.stop()
        await work
        for stray in await runtime.stray({"sbx.topology": self.topology.name}):
            await runtime.remove(stray.name)
        await runtime.close()

    def said(self, module: str) -> list[list[str]]:
        """What the runs of a module saw, as they wrote it."""
        found = self.broker.messages(f"sbx.{self.topology.name}.local.result.{module}")
        return [stored.body.decode().split(" ") for stored in found]

    async def until_done(self, count: int) -> None:
        """Wait until so many tasks are done."""
        async with asyncio.timeout(60):
            while len(self.records) < count:  # noqa: ASYNC110 - of a journal that tells nobody
                await asyncio.sleep(0.02)


async def test_each_run_sees_its_own_gpus(tmp_path: Path, busybox_image: str, devices: str) -> None:
    """Of two GPUs each run has its own, is told which, can open them and sees no other."""
    stand = Stand(tmp_path, busybox_image, Room(gpus=(3, 5)), devices)
    most = 0
    async with stand.node() as node:
        for number in range(4):
            stand.broker.send("one", b"%d" % number)
        stand.broker.send("none", b"x")
        stand.broker.send("both", b"x")
        waiting = asyncio.create_task(stand.until_done(6))
        while not waiting.done():
            most = max(most, node.journal.of("one").running)
            taken = node.pool.in_use.taken
            assert set(taken.gpus) <= {3, 5}
            await asyncio.sleep(0.01)
        await waiting

    begin = devices.rpartition("/")[2].replace("{}", "")
    for gpu, counted, files, name in stand.said("one"):
        assert (counted, files, name) == ("0", "1", f"{begin}{gpu}")
    assert {words[0] for words in stand.said("one")} == {"3", "5"}
    assert stand.said("none") == [["", "", "0", ""]]
    assert stand.said("both")[0][:3] == ["3,5", "0,1", "2"]
    assert {record.exit_code for record in stand.records} == {0}
    assert 1 <= most <= 3  # two that run, and one that waits for room


async def test_a_run_from_before_keeps_its_gpu(
    tmp_path: Path, busybox_image: str, devices: str
) -> None:
    """Its label says which; a node that comes back gives it to nobody until the run has ended."""
    stand = Stand(tmp_path, busybox_image, Room(gpus=(3,)), devices)
    slow = msgspec.structs.replace(stand.topology.modules["one"], command=SLEEP)
    whole, stand.topology = (
        stand.topology,
        Topology(name=stand.topology.name, modules={"one": slow}),
    )
    runtime = await DockerRuntime.open()
    first = Node(stand.topology, stand.broker, runtime, stand.settings)
    work = asyncio.create_task(first.run())
    stand.broker.send("one", b"old", {"Nats-Msg-Id": "old"})
    async with asyncio.timeout(30):
        while not [s for s in await runtime.stray(first._labels) if s.running]:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    first.stop()
    await work

    stand.topology = whole
    async with stand.node() as node:
        stand.broker.send("one", b"new")
        async with asyncio.timeout(30):
            while node.pool.in_use.waiting == 0:  # noqa: ASYNC110 - of a pool that tells nobody
                await asyncio.sleep(0.02)
        held = node.pool.in_use.taken
        [old] = await runtime.stray(first._labels)
        await runtime.remove(old.name)
        await stand.until_done(1)
    await runtime.close()

    assert held == Share(gpus=(3,))
    assert stand.said("one")[0][0] == "3"
