"""The actor on doubles: what it makes of hosts that cannot start, twins, and sudden ends."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from scalebox_actors import actor
from scalebox_actors.names import Names
from scalebox_actors.node import Node, Settings
from scalebox_actors.spec import ContainerSpec
from scalebox_actors.testing.memory import MemoryBroker
from scalebox_actors.testing.scripted import Host, ScriptedRuntime, not_started
from scalebox_actors.topology.model import Launch, Module, Topology

NAMES = Names("t")
REFUSALS = 20
POLL = 0.002


class Stand:
    """A node with one module on doubles."""

    def __init__(self, host: Host, base: Path, slots: int, *, lanes: bool = False) -> None:
        module = Module(name="a", image="i", command=("p",), slots=slots)
        self.host = host
        self.broker = MemoryBroker(NAMES, ["a"])
        topology = Topology(name="t", modules={"a": module})
        settings = Settings(name="n1", base=base)
        self.node = Node(topology, self.broker, ScriptedRuntime(host, lanes=lanes), settings)
        self.actor = self.node.actors["a"]

    def stored(self, kind: str) -> list[str]:
        """The ids that are on the subjects of a kind."""
        return [s.subject for s in self.broker.messages(f"sbx.t.local.{kind}.>")]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until `condition` holds, letting the broker's time pass."""
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(POLL)
                self.broker.advance(31)


@contextlib.asynccontextmanager
async def standing(
    host: Host, base: Path, *, slots: int = 1, suspended: str = "", lanes: bool = False
) -> AsyncIterator[Stand]:
    """A node at work, stopped at the end."""
    stand = Stand(host, base, slots, lanes=lanes)
    if suspended:
        stand.actor.suspend(suspended)
    work = asyncio.create_task(stand.node.run())
    try:
        yield stand
    finally:
        stand.node.stop()
        await work


async def test_a_task_that_nothing_can_start_is_never_buried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused twenty times by a host without its program, a task waits on, and then is done."""
    monkeypatch.setattr(actor, "AGAIN_LATER", 0.006)
    refusals = 0

    def program(_: ContainerSpec, __: Path) -> int:
        nonlocal refusals
        if refusals < REFUSALS:
            refusals += 1
            raise not_started()
        return 0

    async with standing(Host(program=program), tmp_path) as stand:
        stand.broker.send("a", b"x", {"Nats-Msg-Id": "m1"})
        await stand.until(lambda: stand.stored("done"))

        assert refusals == REFUSALS
        assert stand.stored("dead") == []


async def unending(_: ContainerSpec, __: Path) -> int:
    """Run until ended from outside."""
    await asyncio.Event().wait()
    return 0


async def test_a_node_that_ends_lets_go_of_twins_too(tmp_path: Path) -> None:
    """Two deliveries of one task: the second waits for the first, and both end with the node."""
    host = Host(program=unending)
    async with standing(host, tmp_path, slots=2) as stand:
        for _ in range(2):
            stand.broker.send("a", b"x", {"Nats-Msg-Id": "m1"})
        await stand.until(lambda: host.starts and len(stand.actor._hands) == 2)
        await stand.actor.abandon()

        assert len(stand.actor._hands) == 0


async def test_a_module_that_is_suspended_from_the_start_takes_nothing(tmp_path: Path) -> None:
    """A disk that is full when the node starts: nothing is taken before there is room."""
    host = Host(program=lambda _, __: 0)
    async with standing(host, tmp_path, suspended="disk") as stand:
        await stand.until(lambda: stand.broker.intakes)
        (intake,) = stand.broker.intakes
        granted = intake.granted
        stand.actor.resume()

        assert (granted, intake.granted) == (0, 1)


async def test_a_second_copy_that_cannot_be_read_is_not_dead_twice(tmp_path: Path) -> None:
    """Its record says that it was buried: no letter is stored, none is counted."""
    async with standing(Host(program=unending), tmp_path) as stand:
        for _ in range(2):
            stand.broker.shelf.store(
                NAMES.task("a"), b"x", {"Nats-Msg-Id": "m1", "Sbx-Hop": "many"}
            )
        await stand.until(lambda: not stand.stored("task"))

        assert len(stand.stored("dead")) == 1
        assert stand.node.journal.of("a").dead == 1


async def test_what_waits_behind_a_long_run_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs were short, so more were handed over; then one goes on, and others may have room."""
    monkeypatch.setattr("scalebox_actors.launch.fresh.TURN", 0.05)
    hold, long, ran = asyncio.Event(), "m20", list[str]()

    async def program(spec: ContainerSpec, _: Path) -> int:
        ran.append(spec.labels["sbx.id"])
        if ran[-1] == long:
            await hold.wait()
        return 0

    host = Host(program=program)
    async with standing(host, tmp_path, lanes=True) as stand:
        for number in range(30):
            stand.broker.send("a", b"x", {"Nats-Msg-Id": f"m{number}"})
        await stand.until(lambda: long in ran and len(stand.actor._hands) > 1)
        await stand.until(lambda: len(stand.actor._hands) == 1)

        assert stand.actor._hands.slots == 1
        assert [c.spec.labels["sbx.id"] for c in host.containers.values() if not c.end] == [long]
        hold.set()
        await stand.until(lambda: len(stand.stored("done")) == 30)

    assert len(ran) == len(set(ran)) == 30
    assert stand.stored("dead") == []


async def test_a_task_that_waits_for_its_turn_can_be_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is never started, and those behind it are."""
    monkeypatch.setattr("scalebox_actors.launch.lead.SHORT", 10.0)
    hold, ran = asyncio.Event(), list[str]()

    async def program(spec: ContainerSpec, _: Path) -> int:
        ran.append(spec.labels["sbx.id"])
        if ran[-1] == "m1":
            await hold.wait()
        return 0

    host = Host(program=program)
    async with standing(host, tmp_path, lanes=True) as stand:
        stand.actor._hands.resize(4)
        for number in range(1, 5):
            stand.broker.send("a", b"x", {"Nats-Msg-Id": f"m{number}"})
        await stand.until(lambda: len(host.containers) == 4)

        stand.broker.shelf.store(NAMES.done("a", "m2"), b'{"ended":"cancelled"}', {})
        assert await stand.actor.cancel("m2")
        await stand.until(lambda: len(stand.actor._hands) == 3)
        hold.set()
        await stand.until(lambda: len(stand.stored("done")) == 4)

    assert ran == ["m1", "m3", "m4"]


async def lined_up(stand: Stand, ran: list[str]) -> None:
    """Let one task run and three wait for their turn behind it."""
    stand.actor._hands.resize(4)
    for number in range(1, 5):
        stand.broker.send("a", b"x", {"Nats-Msg-Id": f"m{number}"})
    await stand.until(lambda: len(stand.host.containers) == 4 and ran == ["m1"])


def holding(hold: asyncio.Event, ran: list[str]) -> Host:
    """Return a host whose programs run until they may end."""

    async def program(spec: ContainerSpec, _: Path) -> int:
        ran.append(spec.labels["sbx.id"])
        await hold.wait()
        return 0

    return Host(program=program)


async def test_what_waits_for_its_turn_is_stopped_with_the_rest(tmp_path: Path) -> None:
    """A second Ctrl-C: every message goes back, and nothing begins after it."""
    ran: list[str] = []
    host = holding(asyncio.Event(), ran)
    async with standing(host, tmp_path, lanes=True) as stand:
        await lined_up(stand, ran)

        await stand.actor.stop_runs()

        assert (len(stand.actor._hands), host.containers, stand.stored("done")) == (0, {}, [])
        assert len(stand.stored("task")) == 4
    assert ran == ["m1"]


async def test_a_drain_does_not_wait_for_what_has_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs comes to its end, what waits for its turn goes back."""
    monkeypatch.setattr("scalebox_actors.launch.fresh.TURN", 0.05)
    hold, ran = asyncio.Event(), list[str]()
    async with standing(holding(hold, ran), tmp_path, lanes=True) as stand:
        await lined_up(stand, ran)
        draining = asyncio.create_task(stand.actor.drain())
        await stand.until(lambda: len(stand.actor._hands) == 1)
        hold.set()
        await draining

    assert ran == ["m1"]
    assert len(stand.stored("done")) == 1
    assert len(stand.stored("task")) == 3


async def test_what_an_ending_node_has_lined_up_is_adopted(tmp_path: Path) -> None:
    """It lets go; its runs begin in their turn, and the next node finds them as they are."""
    hold, ran = asyncio.Event(), list[str]()
    host = holding(hold, ran)
    async with standing(host, tmp_path, lanes=True) as stand:
        await lined_up(stand, ran)
        await stand.actor.abandon()
        assert len(host.containers) == 4
        broker = stand.broker
    hold.set()
    broker.advance(61)
    successor = Stand(host, tmp_path, 1, lanes=True)
    successor.node = Node(successor.node.topology, broker, ScriptedRuntime(host, lanes=True),
                          Settings(name="n1", base=tmp_path))  # fmt: skip
    successor.broker, successor.actor = broker, successor.node.actors["a"]
    work = asyncio.create_task(successor.node.run())
    await successor.until(lambda: len(successor.stored("done")) == 4)
    successor.node.stop()
    await work

    assert sorted(ran) == ["m1", "m2", "m3", "m4"]


async def test_a_second_ctrl_c_gives_back_what_a_function_has_in_hand(tmp_path: Path) -> None:
    """A call ends with its node, and nobody waits for it to return."""
    (tmp_path / "slow.py").write_text(
        "import asyncio\nasync def f(message):\n    await asyncio.Event().wait()\n"
    )
    module = Module(name="a", function="slow:f", launch=Launch.FUNCTION, slots=2)
    topology = Topology(name="t", modules={"a": module})
    broker = MemoryBroker(NAMES, ["a"])
    node = Node(topology, broker, None, Settings(name="n1", base=tmp_path, folder=tmp_path))
    for number in range(2):
        broker.send("a", b"x", {"Nats-Msg-Id": f"m{number}"})
    work = asyncio.create_task(node.run())
    async with asyncio.timeout(10):
        while len(node.actors["a"]._hands) < 2:  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(POLL)
        await node.kill()
        held = len(node.actors["a"]._hands)
        await work

    assert held == 0
    assert len(broker.messages("sbx.t.local.task.>")) == 2
