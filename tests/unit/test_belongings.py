"""What is a node's own on its host, where others of its name may have work bases too."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from scalebox_actors.belongings import belongings, labels_of
from scalebox_actors.launch.environment import Surroundings
from scalebox_actors.launch.fresh import FreshLauncher
from scalebox_actors.launch.resident import ResidentLauncher
from scalebox_actors.launch.slots import SlotLauncher
from scalebox_actors.launch.workplace import Workplace
from scalebox_actors.leftovers import Leftovers
from scalebox_actors.message import Message
from scalebox_actors.namelock import held_names, lock_path
from scalebox_actors.names import Names, warm_name
from scalebox_actors.pool import Claim, Pool, Room
from scalebox_actors.ports import Launcher, Task
from scalebox_actors.reaper import Reaper
from scalebox_actors.spec import ContainerSpec
from scalebox_actors.testing.memory import MemoryBroker
from scalebox_actors.testing.scripted import Host, ScriptedRuntime
from scalebox_actors.topology.model import Launch, Module

MINE, OTHER = warm_name("t", "a", "mine"), warm_name("t", "a", "other")


async def forever(_: ContainerSpec, __: Path) -> int:
    """Run until ended."""
    await asyncio.Event().wait()
    return 0


class World:
    """A host with one engine, and a warm container of each of two nodes of one name."""

    def __init__(self, folder: Path) -> None:
        self.bases = {MINE: folder / "mine", OTHER: folder / "other"}
        for base in self.bases.values():
            base.mkdir()
        self.host = Host(program=forever)
        self.runtime = ScriptedRuntime(self.host)
        self.labels = labels_of("t", "n1", self.bases[MINE])
        broker = MemoryBroker(Names("t"), ["a"])
        self.reaper = Reaper(self.runtime, broker, self.bases[MINE], "n1", lambda _: False)

    async def begin(self) -> None:
        """Start the two containers."""
        for name, base in self.bases.items():
            await self.start(name, labels_of("t", "n1", base))

    async def start(self, name: str, labels: dict[str, str]) -> None:
        """Start a container that waits for a message and has a CPU of the host."""
        own = {"sbx.module": "a", "sbx.id": "", "sbx.role": "warm", "sbx.share": "0:1000:"}
        work = self.bases[OTHER] / name / "1"
        work.mkdir(parents=True)
        await self.runtime.adopt_or_start(
            ContainerSpec(
                name=name, image="i", command=(), env={}, labels=labels | own, work=str(work)
            )
        )

    async def found(self) -> set[str]:
        """Return the names of what is ours."""
        return {stray.name for stray in await belongings(self.runtime, self.labels)}


@pytest.fixture
async def world(tmp_path: Path) -> World:
    """Return the host."""
    made = World(tmp_path)
    await made.begin()
    return made


async def test_what_a_living_namesake_has_is_not_ours(world: World) -> None:
    """It has another store, or another user, on the same engine."""
    with held_names(world.bases[OTHER], "t", ["n1"]):
        assert await world.found() == {MINE}


async def test_what_a_namesake_left_is_ours(world: World) -> None:
    """Or nobody would remove what a killed `run --ephemeral` left, whose base nobody uses again."""
    with held_names(world.bases[OTHER], "t", ["n2"]), held_names(world.bases[OTHER], "u", ["n1"]):
        before = await world.found()
    lock_path(world.bases[OTHER], "t", "n1").touch()
    after = await world.found()

    assert before == after == {MINE, OTHER}


async def test_what_has_no_base_is_ours(world: World) -> None:
    """So it is with what an older version left."""
    name = warm_name("t", "a", "old")
    await world.start(name, {"sbx.topology": "t", "sbx.node": "n1"})
    with held_names(world.bases[OTHER], "t", ["n1"]):
        assert await world.found() == {MINE, name}


async def test_where_nobody_may_look_somebody_is_at_work(world: World) -> None:
    """The base of another user cannot be entered; that one's next node removes what it left."""
    lock = lock_path(world.bases[OTHER], "t", "n1")
    lock.symlink_to(lock)  # an error for root as well, who may enter everywhere

    assert await world.found() == {MINE}


async def test_a_node_starts_beside_a_namesake(world: World) -> None:
    """It removes what its own earlier life kept; the other one's wait on, then and later."""
    with held_names(world.bases[OTHER], "t", ["n1"]):
        await world.reaper.clear_former()
        await world.reaper.reap(0.0)
        beside = set(world.host.containers)
    await world.reaper.reap(0.0)

    assert beside == {OTHER}
    assert world.host.containers == {}


async def test_only_what_is_left_is_counted_as_left(world: World) -> None:
    """A node does not wait for the end of what a living namesake runs."""
    pools = []
    for held in ("n1", "n2"):
        pool, claims = Pool(Room(millicpus=4000)), {"a": Claim(millicpus=1000)}
        left = Leftovers(world.runtime, pool, claims, world.labels, lambda _: False)
        with held_names(world.bases[OTHER], "t", [held]):
            await left.look()
        pools.append({name for _, name in pool.left})

    assert pools == [{MINE}, {MINE, OTHER}]


def launcher_of(module: Module, place: Workplace) -> Launcher:
    """Return what launches a module."""
    if module.launch is Launch.SLOT:
        return SlotLauncher(module, place)
    if module.launch is Launch.RESIDENT:
        return ResidentLauncher(module, place)
    return FreshLauncher(module, place)


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(Module(name="a", image="i", command=("p",)), id="fresh"),
        pytest.param(Module(name="a", image="i", command=("p",), warm=1), id="warm"),
        pytest.param(Module(name="a", image="i", command=("p",), launch=Launch.SLOT), id="slot"),
        pytest.param(
            Module(name="a", image="i", command=("p",), launch=Launch.RESIDENT), id="resident"
        ),
    ],
)
async def test_every_container_says_its_base(module: Module, tmp_path: Path) -> None:
    """However it is launched, a namesake can tell whose it is."""
    ending = asyncio.Event()

    async def program(_: ContainerSpec, __: Path) -> int:
        await ending.wait()
        return 0

    host = Host(program=program)
    place = Workplace(
        runtime=ScriptedRuntime(host),
        base=tmp_path,
        surroundings=Surroundings(topology="t", node="n1"),
    )
    launcher = launcher_of(module, place)
    launcher.open()
    task = Task(message=Message(module="a", id="m1", body=b"x"))
    running = asyncio.ensure_future(launcher.run(task)) if not module.warm else None
    async with asyncio.timeout(10):
        while not host.containers:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.005)
    found = [made.spec.labels for made in host.containers.values()]
    ending.set()
    if running is not None:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    await launcher.close()

    assert [labels_of("t", "n1", tmp_path).items() <= labels.items() for labels in found] == [True]
