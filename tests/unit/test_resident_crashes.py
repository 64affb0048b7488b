"""A node with programs that stay dies, or a call lies, at every call: nothing is lost."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from unit.crashworld import NAMES, World, count_calls, silence_the_dead, told
from unit.doorway import pipes, read_line

from scalebox_actors import actor
from scalebox_actors.launch.resident import ResidentLauncher
from scalebox_actors.node import Node
from scalebox_actors.records import Ended
from scalebox_actors.spec import ContainerSpec
from scalebox_actors.testing.scripted import Host
from scalebox_actors.testing.tape import Fault
from scalebox_actors.topology.model import Launch, Module, Topology

BODIES = ("x", "y", "z")
KILLER = "killer"


async def program(spec: ContainerSpec, _: Path) -> int:
    """Stay, and answer every message with two; one body ends it."""
    try:
        with pipes(Path(spec.mounts[-1].source)) as (reads, writes):
            os.write(writes, b'{"ready":true,"in_flight":4}\n')
            while line := await read_line(reads):
                message = msgspec.json.decode(line)
                if message["body"] == KILLER:
                    return 9
                sink = [{"body": f"{message['body']}-{number}"} for number in (1, 2)]
                os.write(writes, msgspec.json.encode({"id": message["id"], "sink": sink}) + b"\n")
    except BrokenPipeError:
        return 141
    return 0


class ResidentWorld(World):
    """A world of programs that stay: when a node dies its ends of their pipes go with it."""

    def __init__(self, base: Path, faults: dict[int, Fault] | None, *bodies: str) -> None:
        module = Module(name="a", image="i", command=("p",), launch=Launch.RESIDENT)
        topology = Topology(name="t", modules={"a": module})
        super().__init__(topology, Host(program=program), base, faults)
        self._nodes: list[Node] = []
        for body in bodies:
            self.broker.send("a", body.encode(), {"Nats-Msg-Id": f"m{body}"})

    def _node(self) -> Node:
        node = super()._node()
        self._nodes.append(node)
        return node

    async def _one_life(self) -> bool:
        try:
            return await super()._one_life()
        finally:
            await self.bury()

    async def bury(self) -> None:
        """Let go of what nodes had, as the kernel does when a process dies."""
        self.tape.dead = True
        for node in self._nodes:
            for one in node.actors.values():
                launcher = one._launcher
                assert isinstance(launcher, ResidentLauncher)
                for life in launcher._lives.values():
                    life._let_go()
                for keeper in launcher._keepers:
                    keeper.cancel()
                await asyncio.gather(*launcher._keepers, return_exceptions=True)
        self.tape.dead = False


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """No real time here, and no thread of a dead process that goes on working."""

    async def at_once(work: Callable[..., object], *args: object) -> object:
        await asyncio.sleep(0)
        return work(*args)

    monkeypatch.setattr(asyncio, "to_thread", at_once)
    monkeypatch.setattr(actor, "ENGINE_PAUSES", (0.0,))
    monkeypatch.setattr("scalebox_actors.launch.resident.PAUSES", (0.0, 0.0))


def emitted(world: World) -> list[str]:
    """Return what was sent on."""
    return [body.decode() for body in world.bodies(NAMES.result("a"))]


@pytest.mark.timeout(300)
async def test_no_fault_at_any_call_doubles_or_loses_an_answer(tmp_path: Path) -> None:
    """Whatever dies or lies at whatever call: each message ends once, with its outputs."""
    silence_the_dead()
    calls = await count_calls(lambda faults: ResidentWorld(tmp_path / "count", faults, *BODIES))
    for number in range(1, calls + 1):
        for kind in Fault:
            faults = {number: kind}
            world = ResidentWorld(tmp_path / f"{number}-{kind.name}", faults, *BODIES)
            with told(faults, world):
                await world.live()

                assert world.waiting() == []
                assert {r.ended for r in world.records().values()} == {Ended.DONE}
                assert emitted(world) == [f"{body}-{n}" for body in BODIES for n in (1, 2)]
                await world.sweep()
                assert world.leftovers() == []


@pytest.mark.timeout(300)
async def test_a_killer_among_others_at_every_fault(tmp_path: Path) -> None:
    """One message ends its program whenever it comes: it alone is buried, whatever else fails."""
    silence_the_dead()
    bodies = ("x", KILLER, "z")
    calls = await count_calls(lambda faults: ResidentWorld(tmp_path / "count", faults, *bodies))
    for number in range(1, calls + 1, 3):
        faults = {number: Fault.KILL_AFTER}
        world = ResidentWorld(tmp_path / f"{number}", faults, *bodies)
        with told(faults, world):
            await world.live()
            ended = {name: record.ended for name, record in world.records().items()}

            assert ended == {
                "a.mx": Ended.DONE, "a.mz": Ended.DONE, f"a.m{KILLER}": Ended.DEAD,
            }  # fmt: skip
            assert emitted(world) == ["x-1", "x-2", "z-1", "z-2"]
            await world.sweep()
            assert world.leftovers() == []
