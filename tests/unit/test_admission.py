"""Admission on doubles: whole nodes with little room, and what they ask for, run and give back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest

from scalebox_actors import admission
from scalebox_actors.names import Names
from scalebox_actors.node import Node, Settings
from scalebox_actors.pool import Pool, Room, Share
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


async def test_what_runs_together_fits(tmp_path: Path) -> None:
    """Four modules with forty messages on three CPUs: never more than three, and all are done."""
    claims: Mapping[str, float] = {"a": 1, "b": 2, "c": 0.5, "d": 3}
    stand = Stand(tmp_path, *(module(name, cpus=cpus) for name, cpus in claims.items()))
    machine = Machine()
    machine.free = True
    async with stand.node(machine, Room(millicpus=3000)) as node:
        for number in range(10):
            for name in claims:
                stand.send(name, f"{name}{number}")
        await until(lambda: len(stand.done()) == 40)
        await until(lambda: node.pool.in_use.taken == Share())

    assert 2 < machine.most_cpus <= 3
    assert len(machine.host.starts) == 40


async def test_no_more_is_asked_for_than_fits(tmp_path: Path) -> None:
    """Of ten messages two run, one is in hand to say that there is work, the others wait."""
    stand, machine = Stand(tmp_path, module("a", slots=8, cpus=1)), Machine()
    async with stand.node(machine, Room(millicpus=2000)):
        stand.send("a", *(f"m{n}" for n in range(10)))
        await until(lambda: len(machine.now) == 2)
        await quiet()
        backlog = await stand.broker.backlog("a")
        asked = stand.granted("a")

    assert (backlog.in_hand, backlog.waiting, asked) == (3, 7, 0)


async def test_what_fits_is_asked_for_at_once(tmp_path: Path) -> None:
    """A node with room for all slots asks for all, and so does a module that claims nothing."""
    stand = Stand(tmp_path, module("a", slots=3, cpus=1), module("b", slots=5))
    async with stand.node(Machine(), Room(millicpus=4000)):
        await until(lambda: stand.granted("a"))
        await quiet()

        assert (stand.granted("a"), stand.granted("b")) == (3, 5)


async def test_what_comes_without_room_goes_straight_back(tmp_path: Path) -> None:
    """An idle module had asked for three; others use the room, so one stays to wait."""
    stand = Stand(tmp_path, module("a", slots=3, cpus=1), module("b", slots=3, cpus=1))
    machine = Machine()
    async with stand.node(machine, Room(millicpus=3000)) as node:
        await until(lambda: stand.granted("b") == 3)
        stand.send("a", "a1", "a2")
        await until(lambda: len(machine.now) == 2)
        asked = stand.granted("b")
        stand.send("b", "b1", "b2", "b3")
        await until(lambda: len(machine.now) == 3 and node.pool.in_use.waiting == 1)
        await until(lambda: len(node.actors["b"]._hands) == 2)
        more = stand.granted("b")
        machine.let_all_go()
        await until(lambda: len(stand.done()) == 5)

    assert (asked, more) == (3, 0)
    assert machine.most_cpus == 3
    assert len(machine.host.starts) == 5


async def test_a_large_claim_gets_its_turn(tmp_path: Path) -> None:
    """Small runs that never cease do not keep a large one out: they wait behind it."""
    stand = Stand(tmp_path, module("small", cpus=1), module("large", cpus=2))
    machine = Machine()
    async with stand.node(machine, Room(millicpus=2000)):
        stand.send("small", *(f"s{n}" for n in range(9)))
        await until(lambda: len(machine.now) == 2)
        stand.send("large", "big")
        await quiet()
        while "big" not in machine.now:
            for body in machine.running():
                machine.let_go(body)
            await quiet()
        before_it = len(machine.ended)
        machine.let_all_go()
        await until(lambda: len(stand.done()) == 10)

    # The two that ran and the one small message that stood in line already.
    assert before_it == 3


async def test_what_can_never_fit_is_suspended_with_a_sentence(tmp_path: Path) -> None:
    """Nothing of it is taken, and other modules are not in its way."""
    stand = Stand(tmp_path, module("huge", cpus=64), module("a", cpus=1))
    machine = Machine()
    machine.free = True
    async with stand.node(machine, Room(millicpus=2000)) as node:
        stand.send("huge", "h")
        stand.send("a", "a1")
        await until(lambda: stand.done() == ["a1"])
        status = node.status()

    assert "needs 64, but a node may use 2 CPUs" in status.modules["huge"].suspended
    assert status.in_use.room == Room(millicpus=2000)
    assert (await stand.broker.backlog("huge")).waiting == 1


async def test_a_message_without_room_goes_to_another_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node holds it for a moment only; the other one runs it, and the first asks no more."""
    patience(monkeypatch, held=0.01)
    stand = Stand(tmp_path, module("a", slots=2, cpus=1))
    full, free, room = Machine(), Machine(), Room(millicpus=1000)
    async with stand.node(full, room) as first:
        stand.send("a", "one", "two")
        await until(lambda: first.pool.in_use.waiting == 1 and stand.granted("a") == 0)
        await until(lambda: len(first.actors["a"]._hands) == 1)
        async with stand.node(free, room, name="n2"):
            await until(lambda: free.now)
            free.let_all_go()
            await until(lambda: len(stand.done()) == 1)

    assert (len(full.host.starts), len(free.host.starts)) == (1, 1)


async def test_a_place_that_is_kept_gets_its_message_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message went back, the place stayed: when there is room it is asked for again."""
    patience(monkeypatch, held=0.01)
    stand, machine = Stand(tmp_path, module("a", slots=2, cpus=1)), Machine()
    async with stand.node(machine, Room(millicpus=1000)) as node:
        stand.send("a", "one", "two")
        await until(lambda: node.actors["a"]._admission._place is not None)
        await until(lambda: len(node.actors["a"]._hands) == 1)
        machine.let_all_go()
        await until(lambda: len(stand.done()) == 2)

    assert node.pool.in_use.taken == Share()


async def test_a_place_without_a_message_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If another node took the message, whoever stands behind the place is let in."""
    patience(monkeypatch, held=0.01, rest=0.01, turn=0.02)
    stand = Stand(tmp_path, module("large", cpus=2), module("small", cpus=1))
    machine = Machine()
    async with stand.node(machine, Room(millicpus=2000)) as node:
        stand.send("small", "s1")
        await until(lambda: machine.running() == ["s1"])
        stand.send("large", "big")
        await until(lambda: node.actors["large"]._admission._place is not None)
        await stand.broker.purge("sbx.t.local.task.large")
        stand.send("small", "s2")
        await until(lambda: machine.running() == ["s1", "s2"])
        await until(lambda: node.actors["large"]._admission._place is None)
        machine.let_all_go()
        await until(lambda: len(stand.done()) == 2)

    assert node.pool.in_use.waiting == 0


async def test_a_turn_without_a_message_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept for a place is kept for a moment only, and then free for all."""
    patience(monkeypatch, held=0.01, turn=0.02)
    stand, machine = Stand(tmp_path, module("a", slots=2, cpus=1)), Machine()
    async with stand.node(machine, Room(millicpus=1000)) as node:
        stand.send("a", "one", "two")
        await until(lambda: node.actors["a"]._admission._place is not None)
        await until(lambda: len(node.actors["a"]._hands) == 1)
        await stand.broker.purge("sbx.t.local.task.a")
        machine.let_all_go()
        await until(lambda: node.pool.in_use.taken == Share())

    assert node.pool.in_use.waiting == 0


async def test_gpus_are_given_one_by_one(tmp_path: Path) -> None:
    """Runs at the same time have different ones, and each is told which."""
    stand, machine = Stand(tmp_path, module("a", slots=4, gpus=1)), Machine()
    async with stand.node(machine, Room(gpus=(0, 1, 3))):
        stand.send("a", *(f"m{n}" for n in range(6)))
        await until(lambda: len(machine.now) == 3)
        devices = sorted(spec.devices for spec in machine.now.values())
        together = sorted(machine.gpus)
        machine.let_all_go()
        await until(lambda: len(stand.done()) == 6)

    assert together == ["0", "1", "3"]
    assert devices == [("/dev/nvidia0",), ("/dev/nvidia1",), ("/dev/nvidia3",)]
    assert set(machine.gpus) == {"0", "1", "3"}


async def test_runs_of_an_earlier_life_are_counted(tmp_path: Path) -> None:
    """A node that comes back starts nothing on the GPU of a run that goes on."""
    stand, machine, room = Stand(tmp_path, module("a", slots=2, gpus=1)), Machine(), Room(gpus=(5,))
    async with stand.node(machine, room):
        stand.send("a", "old")
        await until(lambda: machine.now)
    stand.broker.crash()
    async with stand.node(machine, room) as node:
        stand.send("a", "new")
        await until(lambda: node.pool.in_use.waiting == 1)
        counted = node.pool.in_use.taken
        stand.broker.advance(61)  # the message of the old one comes again: its share is its own
        await until(lambda: stand.granted("a") == 0)
        machine.let_all_go()
        await until(lambda: len(stand.done()) == 2)

    assert counted == Share(gpus=(5,))
    assert machine.ended[0] == "old"
    assert len(machine.host.starts) == 2


async def test_a_run_of_an_earlier_life_that_ends_unseen_gives_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its message need not have come again: the node sees that it runs no more."""
    monkeypatch.setattr("scalebox_actors.node.LOOK_EVERY", 0.01)
    stand, machine, room = Stand(tmp_path, module("a", slots=2, gpus=1)), Machine(), Room(gpus=(5,))
    async with stand.node(machine, room):
        stand.send("a", "old")
        await until(lambda: machine.now)
    async with stand.node(machine, room) as node:
        await until(lambda: node.pool.left)
        machine.let_go("old")
        await until(lambda: node.pool.in_use.taken == Share())

    assert machine.ended == ["old"]


async def test_nodes_of_one_process_share_a_host(tmp_path: Path) -> None:
    """Two nodes with one pool run no more together than one alone."""
    stand = Stand(tmp_path, module("a", cpus=1))
    machines, pool = (Machine(), Machine()), Pool(Room(millicpus=1000))
    async with (
        stand.node(machines[0], pool.room, pool=pool),
        stand.node(machines[1], pool.room, name="n2", pool=pool),
    ):
        stand.send("a", "one", "two")
        await until(lambda: pool.in_use.waiting == 1 and any(m.now for m in machines))
        together = [machine.running() for machine in machines]
        for machine in machines:
            machine.let_all_go()
        await until(lambda: len(stand.done()) == 2)

    assert sorted(map(len, together)) == [0, 1]


async def test_a_drain_does_not_wait_for_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for room goes back and keeps no place; the drain ends with what runs."""
    patience(monkeypatch, held=0.01)
    stand, machine = Stand(tmp_path, module("a", slots=2, cpus=1)), Machine()
    async with stand.node(machine, Room(millicpus=1000)) as node:
        stand.send("a", "one", "two")
        await until(lambda: node.pool.in_use.waiting == 1)
        drain = asyncio.create_task(node.drain())
        await until(lambda: node.pool.in_use.waiting == 0)
        machine.let_all_go()
        await drain

    assert stand.done() == ["one"]


async def test_a_drain_starts_nothing_that_waits(tmp_path: Path) -> None:
    """However long it may stand in line: when room falls free, who waited has gone back."""
    stand, machine = Stand(tmp_path, module("a", slots=2, cpus=1)), Machine()
    async with stand.node(machine, Room(millicpus=1000)) as node:
        stand.send("a", "one", "two")
        await until(lambda: node.pool.in_use.waiting == 1)
        drain = asyncio.create_task(node.drain())
        await asyncio.sleep(0)
        machine.let_all_go()
        await drain

    assert stand.done() == ["one"]


async def test_a_twin_claims_nothing_while_the_first_runs(tmp_path: Path) -> None:
    """Two deliveries of one task take the room of one."""
    stand, machine = Stand(tmp_path, module("a", slots=3, cpus=1)), Machine()
    async with stand.node(machine, Room(millicpus=2000)) as node:
        for _ in range(2):
            stand.broker.send("a", b"twin", {"Nats-Msg-Id": "twin"})
        await until(lambda: len(node.actors["a"]._hands) == 2)
        taken = node.pool.in_use.taken.millicpus
        machine.let_all_go()
        await until(lambda: not len(node.actors["a"]._hands))

    assert taken == 1000
    assert stand.done() == ["twin"]
