"""An agent of a slot that is a coroutine: it talks through the pipes as slot_agent.sh does."""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from unit.crashworld import World
from unit.doorway import pipes, read_line

from scalebox_actors.launch.slots import SlotLauncher
from scalebox_actors.node import Node
from scalebox_actors.spec import ContainerSpec
from scalebox_actors.testing.scripted import Program

Behaviour = Callable[[Path], "int | Awaitable[int]"]
"""What a message's program does in the work directory."""


def agent(behaviour: Behaviour) -> Program:
    """Return a container's program that is a slot's agent, and runs `behaviour` for messages."""

    async def run(spec: ContainerSpec, work: Path) -> int:
        door = Path(spec.mounts[-1].source)
        try:
            with pipes(door) as (reads, writes):
                os.write(writes, b"ready 0\n")
                while line := await read_line(reads):
                    name, _, hook = line.decode().strip().partition(" ")
                    answer = await _answer(hook, door, work, behaviour)
                    os.write(writes, f"{name} {answer}\n".encode())
        except BrokenPipeError:
            return 141
        return 0

    return run


async def _answer(hook: str, door: Path, work: Path, behaviour: Behaviour) -> "int | str":
    if hook != "command":
        return "none"
    if (door / "task").read_bytes().startswith(b"command -v"):
        return 0
    code = behaviour(work)
    return code if isinstance(code, int) else await code


class SlotWorld(World):
    """A world of slots: when a node dies its ends of the pipes go with it."""

    nodes: list[Node]

    def _node(self) -> Node:
        node = super()._node()
        self.nodes = [*getattr(self, "nodes", []), node]
        return node

    async def _one_life(self) -> bool:
        try:
            return await super()._one_life()
        finally:
            self.bury()

    def bury(self) -> None:
        """Let the pipes of all nodes so far go, as a dead process does."""
        for node in self.nodes:
            for actor in node.actors.values():
                launcher = actor._launcher
                assert isinstance(launcher, SlotLauncher)
                for slot in launcher._slots:
                    if slot._idle is not None:
                        slot._idle.cancel()
                    if slot._container is not None and slot._container._door is not None:
                        slot._container._door.close()
