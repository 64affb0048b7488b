"""Batches: what a slot takes at once, runs in turn or as one, and how that is stored."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from unit.crashworld import NAMES, count_calls, silence_the_dead, told
from unit.slotworld import Behaviour, SlotWorld, agent

from scalebox_actors import actor
from scalebox_actors.node import Node, Settings
from scalebox_actors.ports import Delivery
from scalebox_actors.records import DoneRecord, Ended
from scalebox_actors.testing.hands import MemoryIntake
from scalebox_actors.testing.memory import MemoryBroker
from scalebox_actors.testing.scripted import Host, ScriptedRuntime
from scalebox_actors.testing.tape import Fault
from scalebox_actors.topology.model import Batch, Launch, Module, Retry, Topology

POLL = 0.002


def module(size: int, *, atomic: bool, **more: object) -> Module:
    """A module that is launched in slots, with batches."""
    return Module(
        name="a",
        image="i",
        command=("p",),
        launch=Launch.SLOT,
        batch=Batch(size=size, atomic=atomic),
        **more,  # type: ignore[arg-type]  # fields of a module
    )


class Shop:
    """A node with one module of slots on doubles, and what its programs have seen."""

    def __init__(self, base: Path, made: Module, program: Behaviour) -> None:
        self.broker = MemoryBroker(NAMES, ["a"])
        self.host = Host(program=agent(program))
        topology = Topology(name="t", modules={"a": made})
        settings = Settings(name="n1", base=base)
        self.node = Node(topology, self.broker, ScriptedRuntime(self.host), settings)
        self.actor = self.node.actors["a"]

    def send(self, *bodies: str) -> None:
        """Put messages into the stream, all before anybody sees the first."""
        for body in bodies:
            self.broker.send("a", body.encode(), {"Nats-Msg-Id": f"id-{body}"})

    def records(self) -> dict[str, DoneRecord]:
        """How each task ended."""
        return {
            s.subject.rpartition(".")[2]: msgspec.json.decode(s.body, type=DoneRecord)
            for s in self.broker.messages("sbx.t.local.done.>")
        }

    def results(self) -> list[str]:
        """What was emitted."""
        return [s.body.decode() for s in self.broker.messages(NAMES.result("a"))]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until `condition` holds, letting the broker's time pass."""
        async with asyncio.timeout(15):
            while not condition():
                await asyncio.sleep(POLL)
                self.broker.advance(1)


@contextlib.asynccontextmanager
async def open_shop(
    base: Path, made: Module, program: Behaviour, *bodies: str
) -> AsyncIterator[Shop]:
    """A node at work on some messages, stopped at the end, with nothing left on its host."""
    shop = Shop(base, made, program)
    shop.send(*bodies)
    work = asyncio.create_task(shop.node.run())
    try:
        yield shop
    finally:
        shop.node.stop()
        await work

    assert shop.host.containers == {}
    assert left(base) == []


def left(base: Path) -> list[str]:
    """What lies where work directories are made."""
    return [place.name for place in base.iterdir()]


def bodies_of(work: Path) -> list[str]:
    """What a program was given: the bodies of its batch, or its one body."""
    batch = work / "batch-tasks.jsonl"
    if not batch.exists():
        return [(work / "body").read_text()]
    return [json.loads(line)["body"] for line in batch.read_text().splitlines()]


def emit(work: Path) -> int:
    """Emit one output that says what came in."""
    (work / "sink-tasks.jsonl").write_text(json.dumps({"body": "+".join(bodies_of(work))}) + "\n")
    return 0


async def test_a_slot_takes_what_waits_and_runs_it_in_order(tmp_path: Path) -> None:
    """Without `atomic` every message has its own run, in the order in which they came."""
    order: list[str] = []

    def program(work: Path) -> int:
        order.extend(bodies_of(work))
        return emit(work) if order[-1] != "c" else 9

    words = "abcdefg"
    made = module(4, atomic=False, retry=Retry(rules={"*": 0}))
    async with open_shop(tmp_path, made, program, *words) as shop:
        await shop.until(lambda: len(shop.records()) == 7)
        ended = {key: record.ended for key, record in shop.records().items()}

    assert order == list(words)
    assert ended == {f"id-{w}": Ended.DEAD if w == "c" else Ended.DONE for w in words}
    assert sorted(shop.results()) == list("abdefg")
    assert len(shop.host.starts) == 1


async def test_a_slot_takes_no_more_than_its_batch(tmp_path: Path) -> None:
    """What does not fit stays in the stream, where another node may take it."""
    gate = asyncio.Event()

    async def program(_: Path) -> int:
        await gate.wait()
        return 0

    async with open_shop(tmp_path, module(3, atomic=False), program, *"abcdef") as shop:
        await shop.until(lambda: shop.host.starts)
        await shop.until(lambda: len(shop.actor._hands) == 3)
        backlog = await shop.broker.backlog("a")
        gate.set()
        await shop.until(lambda: len(shop.records()) == 6)

    assert (backlog.waiting, backlog.in_hand) == (3, 3)


async def test_an_atomic_batch_is_one_run_and_one_write(tmp_path: Path) -> None:
    """Every message has its own record; what the run emitted is there once, by the first task."""
    async with open_shop(tmp_path, module(10, atomic=True), emit, *"abcd") as shop:
        await shop.until(lambda: len(shop.records()) == 4)
        (output,) = shop.broker.messages(NAMES.result("a"))

    assert {r.ended for r in shop.records().values()} == {Ended.DONE}
    assert shop.results() == ["a+b+c+d"]
    assert output.headers["Sbx-Parent"] == "id-a"
    assert [shop.records()[f"id-{w}"].outputs for w in "abcd"] == [1, 0, 0, 0]


async def test_one_code_holds_for_all_and_then_each_runs_alone(tmp_path: Path) -> None:
    """A batch that fails is tried again task by task: the poison one takes nobody with it."""
    runs: list[list[str]] = []

    def program(work: Path) -> int:
        runs.append(bodies_of(work))
        return 7 if "b" in runs[-1] else emit(work)

    async with open_shop(tmp_path, module(10, atomic=True), program, *"abc") as shop:
        await shop.until(lambda: len(shop.records()) == 3)
        ended = {key: record.ended.value for key, record in shop.records().items()}

    assert ended == {"id-a": "done", "id-b": "dead", "id-c": "done"}
    assert runs[0] == ["a", "b", "c"]
    assert sorted(runs[1:]) == [["a"], ["b"], ["b"], ["c"]]
    assert sorted(shop.results()) == ["a", "c"]


async def test_a_batch_of_which_one_has_ended_meanwhile_is_void(tmp_path: Path) -> None:
    """Cancelled while the batch ran, a task's share of the outputs cannot be told from the rest."""
    gate, begun = asyncio.Event(), asyncio.Event()
    runs: list[list[str]] = []

    async def program(work: Path) -> int:
        runs.append(bodies_of(work))
        begun.set()
        await gate.wait()
        return emit(work)

    async with open_shop(tmp_path, module(10, atomic=True), program, *"abc") as shop:
        await shop.until(begun.is_set)
        record = msgspec.json.encode(DoneRecord(ended=Ended.CANCELLED))
        shop.broker.shelf.store(NAMES.done("a", "id-b"), record, {})
        gate.set()
        await shop.until(lambda: len(shop.records()) == 3 and not shop.actor._hands)

    assert shop.results() == ["a+c"]
    assert runs == [["a", "b", "c"], ["a", "c"]]
    assert shop.records()["id-b"].ended is Ended.CANCELLED


async def test_a_batch_whose_outputs_do_not_fit_fails_as_a_whole(tmp_path: Path) -> None:
    """Records and outputs of a batch are one write; more of them than it can hold are code 120."""

    def program(work: Path) -> int:
        lines = 999 if len(bodies_of(work)) > 1 else 1
        (work / "sink-tasks.jsonl").write_text('{"body":"o"}\n' * lines)
        return 0

    async with open_shop(tmp_path, module(10, atomic=True), program, *"ab") as shop:
        await shop.until(lambda: len(shop.records()) == 2)
        ended = {record.ended for record in shop.records().values()}

    assert ended == {Ended.DEAD}
    assert shop.results() == []


async def test_a_second_copy_does_not_hold_up_a_batch(tmp_path: Path) -> None:
    """Two messages of one id among those that wait: one runs, the other finds its record."""
    runs: list[list[str]] = []

    def program(work: Path) -> int:
        runs.append(bodies_of(work))
        return emit(work)

    async with open_shop(tmp_path, module(10, atomic=True), program) as shop:
        for _ in range(2):
            shop.broker.shelf.store(NAMES.task("a"), b"a", {"Nats-Msg-Id": "id-a"})
        shop.send("b")
        await shop.until(lambda: len(shop.records()) == 2 and not shop.actor._hands)
        await shop.until(lambda: shop.node.journal.of("a").repeated == 1)

    assert runs == [["a", "b"]]


@pytest.mark.parametrize("atomic", [True, False])
async def test_a_node_that_ends_in_the_middle_leaves_nothing(tmp_path: Path, atomic: bool) -> None:
    """Stopped while a batch runs, its messages come again elsewhere and its container is gone."""
    begun = asyncio.Event()

    async def program(_: Path) -> int:
        begun.set()
        await asyncio.Event().wait()
        return 0

    async with open_shop(tmp_path, module(10, atomic=atomic), program, *"abc") as shop:
        await shop.until(begun.is_set)

    assert shop.records() == {}
    assert len(shop.actor._hands) == 0
    assert (await shop.broker.backlog("a")).in_hand == 3


async def test_a_drain_gives_back_what_is_on_its_way_into_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While more is asked for, the first is in no hand yet: it is not forgotten by the drain."""
    asked, answer = asyncio.Event(), asyncio.Event()
    real = MemoryIntake.more

    async def slowly(intake: MemoryIntake, most: int) -> list[Delivery]:
        came = await real(intake, most)
        asked.set()
        await answer.wait()
        return came

    monkeypatch.setattr(MemoryIntake, "more", slowly)
    async with open_shop(tmp_path, module(3, atomic=False), emit, *"abcd") as shop:
        await asked.wait()
        draining = asyncio.create_task(shop.actor.drain())
        for _ in range(10):
            await asyncio.sleep(0)
        early = draining.done()
        answer.set()
        await draining
        owners = [held.owner for held in shop.broker.shelf.held.values()]
        handed = sum(held.deliveries for held in shop.broker.shelf.held.values())

    assert (early, handed) == (False, 3)
    assert owners == [None] * 4
    assert shop.records() == {}


# --- a node that dies at every call -------------------------------------------------------------


def batch_world(atomic: bool) -> Callable[[Path, dict[int, Fault] | None], SlotWorld]:
    """Three messages for one slot that takes them at once."""

    def make(base: Path, faults: dict[int, Fault] | None) -> SlotWorld:
        topology = Topology(name="t", modules={"a": module(3, atomic=atomic)})
        world = SlotWorld(topology, Host(program=agent(emit)), base, faults)
        for body in "xyz":
            world.broker.send("a", body.encode(), {"Nats-Msg-Id": f"m{body}"})
        return world

    return make


@pytest.mark.timeout(300)
@pytest.mark.parametrize("atomic", [True, False])
async def test_no_fault_at_any_call_doubles_or_loses_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, atomic: bool
) -> None:
    """Whatever dies or lies at whatever call: each message ends once and is in one output."""
    monkeypatch.setattr(actor, "ENGINE_PAUSES", (0.0,))
    silence_the_dead()
    plan = batch_world(atomic)
    calls = await count_calls(lambda faults: plan(tmp_path / "count", faults))
    for number in range(1, calls + 1):
        for kind in Fault:
            faults = {number: kind}
            world = plan(tmp_path / f"{number}-{kind.name}", faults)
            with told(faults, world):
                await world.live()
                emitted = "+".join(b.decode() for b in world.bodies(NAMES.result("a")))

                assert world.waiting() == []
                assert {r.ended for r in world.records().values()} == {Ended.DONE}
                assert len(world.records()) == 3
                assert sorted(emitted.split("+")) == ["x", "y", "z"]
                await world.sweep()
                assert world.leftovers() == []
