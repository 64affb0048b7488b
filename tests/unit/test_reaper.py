"""The reaper and containers that were started before their message: whose is what."""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from scalebox_actors.launch import workdir
from scalebox_actors.launch.spares import Spares, prefix
from scalebox_actors.launch.workdir import OWNER, WorkDir
from scalebox_actors.message import Message
from scalebox_actors.names import Names, run_name, waits, warm_name
from scalebox_actors.ports import Entry, Task
from scalebox_actors.reaper import Reaper
from scalebox_actors.spec import ContainerSpec
from scalebox_actors.testing.memory import MemoryBroker
from scalebox_actors.testing.scripted import Host, ScriptedRuntime

NAMES = Names("t")
TASK = Task(message=Message(module="a", id="m1", body=b"x"))
GIVEN = run_name("t", "a", "m1")


async def forever(_: ContainerSpec, __: Path) -> int:
    """Run until ended."""
    await asyncio.Event().wait()
    return 0


class World:
    """A host with warm containers of a node that has gone, and the reaper of its next life."""

    def __init__(self, base: Path) -> None:
        self.base = workdir.make_base(base)
        self.host = Host(program=forever)
        self.runtime = ScriptedRuntime(self.host)
        self.broker = MemoryBroker(NAMES, ["a"])
        self.held: set[str] = set()
        self.reaper = Reaper(
            self.runtime, self.broker, self.base, "n1", lambda name: name in self.held
        )

    async def park(self, unique: str, **more: str) -> str:
        """Leave a container that waits."""
        name = warm_name("t", "a", unique)
        directory = WorkDir(self.base, name, 1, "n1")
        directory.prepare_ahead()
        labels: Mapping[str, str] = {
            "sbx.topology": "t",
            "sbx.node": "n1",
            "sbx.module": "a",
            "sbx.id": "",
            "sbx.role": "warm",
            **more,
        }
        spec = ContainerSpec(
            name=name, image="i", command=(), env={}, labels=labels, work=str(directory.path)
        )
        await self.runtime.adopt_or_start(spec)
        return name

    async def give(self, unique: str) -> None:
        """Leave a container that was given to the task."""
        name = await self.park(unique)
        given = WorkDir(self.base, GIVEN, 1, "n1")
        given.take_over(WorkDir(self.base, name, 1, "n1"), TASK)
        assert await self.runtime.rename(name, GIVEN)

    def left(self) -> tuple[list[str], list[str]]:
        """Return the containers and the directories that there are."""
        return sorted(self.host.containers), sorted(path.name for path in self.base.iterdir())


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Return a host."""
    return World(tmp_path)


def test_no_task_is_named_like_a_container_that_waits() -> None:
    """Whatever its id: the two cannot be taken for each other."""
    assert waits(warm_name("t", "a", "0a1b2c"))
    assert not any(waits(run_name("t", "a", name)) for name in ("warm-x", "m1", "warm-0a1b2c"))


async def test_a_new_life_removes_what_waited_and_keeps_what_was_given(world: World) -> None:
    """Nobody can speak to those that waited; the other's task comes again and adopts it."""
    await world.park("one")
    await world.give("two")

    await world.reaper.clear_former()

    assert world.left() == ([GIVEN], [GIVEN])


async def test_a_new_life_names_what_was_let_in(world: World) -> None:
    """A node died between the opening of the gate and the rename: its container is the task's."""
    name = await world.park("one")
    given = WorkDir(world.base, GIVEN, 1, "n1")
    given.take_over(WorkDir(world.base, name, 1, "n1"), TASK)
    given.open_door(b"")
    assert given.container == name

    await world.reaper.clear_former()

    assert world.left() == ([GIVEN], [GIVEN])


async def test_what_was_given_and_not_let_in_is_removed(world: World) -> None:
    """Nothing of the task was run in it; the task is started anew."""
    name = await world.park("one")
    given = WorkDir(world.base, GIVEN, 1, "n1")
    given.take_over(WorkDir(world.base, name, 1, "n1"), TASK)
    assert given.container == ""

    await world.reaper.clear_former()

    assert world.left() == ([], [GIVEN])


async def test_another_nodes_are_left(world: World) -> None:
    """On one host there may be several nodes of one topology."""
    name = await world.park("one", **{"sbx.node": "n2"})

    await world.reaper.clear_former()
    await world.reaper.reap(0.0)

    assert name in world.host.containers


async def test_what_waits_in_this_life_is_left(world: World) -> None:
    """The launcher says which those are; another that waits has been forgotten."""
    await world.park("one")
    held = await world.park("two")
    world.held.add(held)

    await world.reaper.reap(0.0)

    assert world.left() == ([held], [held])


async def test_one_that_was_given_is_known_by_the_note_beside_it(world: World) -> None:
    """Its labels name no task; with its task's record it goes, also while it runs."""
    await world.give("one")

    await world.reaper.reap(0.0)
    before = world.left()
    await world.broker.write([Entry(subject=NAMES.done("a", "m1"), body=b"{}", expect=0)])
    await world.reaper.reap(0.0)

    assert before == ([GIVEN], [GIVEN])
    assert world.left() == ([], [])


async def test_one_that_has_no_note_is_left_while_it_runs(world: World) -> None:
    """A node died between the two renames: its container ends by itself, then it is reaped."""
    name = await world.park("one")
    assert await world.runtime.rename(name, GIVEN)

    await world.reaper.reap(0.0)

    assert GIVEN in world.host.containers


async def test_empty_work_directories_of_an_earlier_life_go(world: World) -> None:
    """Those of this life, of another node and of another topology stay."""
    mine, dead, foreign = Spares(world.base, "t"), Spares(world.base, "t"), Spares(world.base, "u")
    other = Spares(world.base, "t")
    for spares, owner in ((mine, "n1"), (dead, "n1"), (foreign, "n1"), (other, "n2")):
        directory = WorkDir(world.base, "sbx-t.a.one", 1, owner, spares)
        directory.prepare(TASK)
        assert directory.remove_inputs()
    kept = {name for name in world.left()[1] if not dead.holds(name)}
    world.held |= {name for name in kept if mine.holds(name)}

    await world.reaper.reap(time.time() + 1)

    assert set(world.left()[1]) == kept
    assert len(kept) == 3


@pytest.mark.parametrize("owner", ["n1", None], ids=["ours", "nobodys"])
async def test_a_spare_directory_of_an_earlier_life_goes(world: World, owner: str | None) -> None:
    """Wherever that life was killed: while it kept the directory, or while it removed it."""
    spare = world.base / f"{prefix('t')}1.0"
    spare.mkdir(parents=True)
    if owner is not None:
        (spare / OWNER).write_text(owner)
        (spare / "1").mkdir()
        (spare / "1" / "body").write_text("x")

    await world.reaper.reap(time.time() + 1)

    assert world.left() == ([], [])


async def test_a_spare_directory_of_another_node_is_left(world: World) -> None:
    """It is that node's to use again."""
    spare = world.base / f"{prefix('t')}1.0"
    spare.mkdir(parents=True)
    (spare / OWNER).write_text("n2")

    await world.reaper.reap(time.time() + 1)

    assert world.left() == ([], [spare.name])
