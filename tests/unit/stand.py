"""Whole nodes with little room, and machines on which programs wait to be let go."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from scalebox_actors import admission
from scalebox_actors.names import Names
from scalebox_actors.node import Node, Settings
from scalebox_actors.pool import Pool, Room
from scalebox_actors.spec import ContainerSpec
from scalebox_actors.testing.memory import MemoryBroker
from scalebox_actors.testing.scripted import Host, ScriptedRuntime
from scalebox_actors.topology.model import Limits, Module, Topology

POLL = 0.002
LONG = 1000.0


class Machine:
    """A host whose programs wait to be let go, and that knows what ran together."""

    def __init__(self) -> None:
        self.host = Host(program=self._program)
        self.now: dict[str, ContainerSpec] = {}
        self.ended: list[str] = []
        self.most_cpus = 0.0
        self.gpus: list[str] = []
        self._ways: dict[str, asyncio.Event] = {}
        self.free = False
        """Nothing waits: programs end at once."""

    def running(self) -> list[str]:
        """The bodies of the messages that are being run, sorted."""
        return sorted(self.now)

    def let_go(self, body: str) -> None:
        """Let the run of a message end."""
        self._ways[body].set()

    def let_all_go(self) -> None:
        """Let everything end, now and later."""
        self.free = True
        for way in self._ways.values():
            way.set()

    async def _program(self, spec: ContainerSpec, _: Path) -> int:
        body = spec.command[1]
        self.now[body] = spec
        self._ways[body] = asyncio.Event()
        self.most_cpus = max(self.most_cpus, sum(s.cpus or 0 for s in self.now.values()))
        self.gpus.append(spec.env.get("SBX_GPU", ""))
        try:
            await (asyncio.sleep(0) if self.free else self._ways[body].wait())
        finally:
            del self.now[body]
            self.ended.append(body)
        return 0


def module(name: str, slots: int = 4, **limits: float) -> tuple[str, Module]:
    """Return a module that claims what `limits` say."""
    claimed = Limits(**limits)  # type: ignore[arg-type]  # numbers by name
    return name, Module(name=name, image="i", command=("p",), slots=slots, limits=claimed)


class Stand:
    """A stream and nodes on it."""

    def __init__(self, base: Path, *modules: tuple[str, Module]) -> None:
        self.topology = Topology(name="t", modules=dict(modules))
        self.broker = MemoryBroker(Names("t"), list(self.topology.modules))
        self._base = base
        self._number = 0

    def send(self, to: str, *bodies: str) -> None:
        """Send messages whose ids are their bodies."""
        for body in bodies:
            self.broker.send(to, body.encode(), {"Nats-Msg-Id": body})

    @contextlib.asynccontextmanager
    async def node(
        self, machine: Machine, room: Room, *, name: str = "n1", pool: Pool | None = None
    ) -> AsyncIterator[Node]:
        """A node at work until the end of the block; its runs live on."""
        settings = Settings(name=name, base=self._base / name, room=room)
        runtime = ScriptedRuntime(machine.host)
        made = Node(self.topology, self.broker, runtime, settings, pool)
        work = asyncio.create_task(made.run())
        try:
            yield made
        finally:
            made.stop()
            await work

    def done(self) -> list[str]:
        """The ids of tasks that are done, sorted."""
        stored = self.broker.messages("sbx.t.local.done.>")
        return sorted(s.subject.rpartition(".")[2] for s in stored)

    def granted(self, to: str) -> int:
        """How many messages of a module are asked for."""
        return sum(intake.granted for intake in self.broker.intakes if intake.module == to)


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - of several nodes at once
            await asyncio.sleep(POLL)


async def quiet() -> None:
    """Let everything that can happen without time happen."""
    for _ in range(50):
        await asyncio.sleep(0)


def patience(monkeypatch: pytest.MonkeyPatch, *, held: float = LONG, **more: float) -> None:
    """Set how long messages are held, and what else a test wants to be short."""
    monkeypatch.setattr(admission, "RESOURCES_HELD", held)
    for word in ("rest", "turn"):
        monkeypatch.setattr(admission, f"RESOURCES_{word.upper()}", more.get(word, LONG))
