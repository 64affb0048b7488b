"""The pool of warm containers: what it starts, what it gives away, and when it leaves off."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from unit.gatekeeper import Gatekeeper

from scalebox_actors.errors import ImageMissing, RuntimeUnavailable
from scalebox_actors.launch import warm, workdir
from scalebox_actors.launch.environment import Surroundings
from scalebox_actors.launch.fresh import FreshLauncher
from scalebox_actors.launch.workplace import Workplace
from scalebox_actors.message import Message
from scalebox_actors.names import waits
from scalebox_actors.ports import Task
from scalebox_actors.records import Cause
from scalebox_actors.spec import ContainerSpec
from scalebox_actors.testing.scripted import Host, ScriptedRuntime, not_started
from scalebox_actors.topology.model import Duration, Limits, Module


def emits(spec: ContainerSpec, work: Path) -> int:
    """Emit the body."""
    (work / "sink-tasks.txt").write_text(f"{spec.command[1]}\n")
    return 0


class World:
    """A host, and one launcher with warm containers on it."""

    def __init__(self, base: Path, module: Module) -> None:
        self.keeper = Gatekeeper(emits)
        self.host = Host(program=self.keeper)
        self.keeper.host = self.host
        self.runtime = ScriptedRuntime(self.host)
        self.base = workdir.make_base(base)
        place = Workplace(
            runtime=self.runtime,
            base=self.base,
            surroundings=Surroundings(topology="t", node="n1"),
            modules=("a",),
        )
        self.launcher = FreshLauncher(module, place)
        self.pool = self.launcher._warm

    async def full(self) -> None:
        """Begin, and wait until the pool is full."""
        self.launcher.open()
        await until(lambda: self.pool.states["ready"] == self.launcher._module.warm)

    @property
    def waiting(self) -> set[str]:
        """The containers that wait."""
        return {name for name, made in self.host.containers.items() if waits(name) and not made.end}


MODULE = Module(name="a", image="i", command=("p",), warm=2, timeout=Duration(10))


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition that tells nobody."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.005)


def task(name: str = "m1", body: bytes = b"x") -> Task:
    """Return a task."""
    return Task(message=Message(module="a", id=name, body=body))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A host on which two containers wait."""
    made = World(tmp_path, MODULE)
    await made.full()
    yield made
    await made.launcher.close()
    assert made.waiting == set()
    assert not [path for path in made.base.iterdir() if waits(path.name)]


@pytest.mark.parametrize("seconds", [0.0, 0.03])
async def test_the_next_attempt_keeps_its_name(
    world: World, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """The one before it ended so soon that it had no name yet: the engine takes so long for it."""
    real = ScriptedRuntime.rename

    async def slow(runtime: ScriptedRuntime, name: str, new: str) -> bool:
        await asyncio.sleep(seconds)
        return await real(runtime, name, new)

    monkeypatch.setattr(ScriptedRuntime, "rename", slow)
    await world.launcher.run(task())
    world.keeper.free.clear()
    second = msgspec.structs.replace(task(), attempt=2)
    running = asyncio.create_task(world.launcher.run(second))
    await asyncio.sleep(0.1)
    world.keeper.free.set()

    assert (await running).exit_code == 0
    await world.launcher.clear(second)
    await until(lambda: world.pool.states["ready"] == 2)
    assert set(world.host.containers) == world.waiting


async def test_a_long_run_is_named(world: World) -> None:
    """Whoever looks for its task finds it, soon after its start."""
    world.keeper.free.clear()
    running = asyncio.create_task(world.launcher.run(task()))
    await until(lambda: world.launcher._place.name(task()) in world.host.containers)
    world.keeper.free.set()

    outcome = await running
    await world.launcher.clear(task(), outcome)

    assert outcome.exit_code == 0
    assert set(world.host.containers) == world.waiting


async def test_a_task_is_run_in_one_that_waits(world: World) -> None:
    """Its container is named after it from then on, and another takes the place that it left."""
    before = world.waiting
    outcome = await world.launcher.run(task(body=b"hello"))
    await until(lambda: world.pool.states["ready"] == 2)

    assert [emission.body for emission in outcome.emissions] == [b"hello"]
    assert len(before & world.waiting) == 1
    await world.launcher.clear(task(), outcome)
    assert set(world.host.containers) == world.waiting


async def test_more_tasks_than_wait_are_started_at_once(world: World) -> None:
    """Nobody waits for the pool to be filled."""
    tasks = [task(f"m{number}", b"b%d" % number) for number in range(6)]
    outcomes = await asyncio.gather(*(world.launcher.run(each) for each in tasks))

    bodies = [emission.body for outcome in outcomes for emission in outcome.emissions]
    assert sorted(bodies) == [b"b%d" % number for number in range(6)]
    assert sorted(world.keeper.runs) == [f"b{number}" for number in range(6)]


async def test_who_has_the_name_of_a_task_without_its_directory_has_to_go(world: World) -> None:
    """A container under the task's name whose directory is not here has lost the task."""
    name = world.launcher._place.name(task())
    stale = ContainerSpec(
        name=name,
        image="i",
        command=("p",),
        env={},
        labels={"sbx.topology": "t", "sbx.attempt": "1"},
        work=str(world.base),
    )
    world.keeper._program = lambda _, __: 3
    await world.runtime.adopt_or_start(msgspec.structs.replace(stale, command=("p", "old")))
    world.keeper._program = emits
    outcome = await world.launcher.run(task())

    assert [emission.body for emission in outcome.emissions] == [b"x"]
    assert world.keeper.runs == ["old", "x"]
    await until(lambda: world.pool.states["ready"] == 2)
    assert world.host.containers.keys() - world.waiting == {name}
    assert await world.runtime.find(name) is not None
    await world.launcher.clear(task(), outcome)
    assert set(world.host.containers) == world.waiting


async def test_a_task_that_left_something_here_is_run_as_without_a_pool(world: World) -> None:
    """An earlier attempt's directory is there: what belongs to it has to go first."""
    left = world.launcher._place.directory(task())
    left.prepare(task())
    before = world.waiting
    outcome = await world.launcher.run(msgspec.structs.replace(task(), attempt=2))

    assert outcome.exit_code == 0
    assert world.waiting == before


async def failing(_: ScriptedRuntime, __: str, ___: str) -> bool:
    """Give a container another name, where the engine does not answer."""
    raise RuntimeUnavailable("no answer")


async def never(_: ScriptedRuntime, __: str, ___: str) -> bool:
    """Give a container another name, in a node that dies before."""
    return await asyncio.Event().wait()


async def test_an_engine_that_fails_at_the_rename_does_not_fail_the_task(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs under the name that it had, and that one is removed with it."""
    monkeypatch.setattr(ScriptedRuntime, "rename", failing)
    outcome = await world.launcher.run(task())
    await until(lambda: world.pool.states["ready"] == 2)
    assert len(world.host.containers) == 3
    await world.launcher.clear(task(), outcome)

    assert outcome.exit_code == 0
    assert world.keeper.runs == ["x"]
    assert set(world.host.containers) == world.waiting


async def test_a_run_is_stopped_whatever_it_is_called(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name changes while it runs: who wants it ended waits for that."""
    real, began = ScriptedRuntime.rename, asyncio.Event()

    async def slow(runtime: ScriptedRuntime, name: str, new: str) -> bool:
        began.set()
        await asyncio.sleep(0.05)
        return await real(runtime, name, new)

    monkeypatch.setattr(ScriptedRuntime, "rename", slow)
    world.keeper.free.clear()
    running = asyncio.create_task(world.launcher.run(task()))
    await began.wait()
    held = [name for name in world.host.containers if world.launcher.holds(name)]
    await world.launcher.stop(task())
    outcome = await asyncio.wait_for(running, 10)

    assert len(held) == 2  # the reaper leaves alone what is being renamed
    assert outcome.exit_code != 0


async def test_a_run_without_its_name_is_adopted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node died before the rename; whoever gets the message finds the run by its directory."""
    with monkeypatch.context() as dying:
        dying.setattr(ScriptedRuntime, "rename", never)
        assert (await world.launcher.run(task())).exit_code == 0
    successor = FreshLauncher(MODULE, world.launcher._place)
    assert await successor.underway(task())
    outcome = await successor.run(task())
    await successor.clear(task(), outcome)

    assert outcome.exit_code == 0
    assert world.keeper.runs == ["x"]
    assert world.host.containers.keys() == world.waiting
    for naming in world.pool._namings.values():
        naming.cancel()


async def test_an_earlier_attempt_that_never_got_its_name_is_removed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its node died, another one counted a failure: the next attempt does not run beside it."""
    with monkeypatch.context() as dying:
        dying.setattr(ScriptedRuntime, "rename", never)
        world.keeper.free.clear()
        running = asyncio.create_task(world.launcher.run(task()))
        await until(lambda: world.pool._namings)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    (naming,) = world.pool._namings.values()
    left = world.launcher._directory(task()).container
    successor = FreshLauncher(MODULE, world.launcher._place)
    following = asyncio.create_task(successor.run(msgspec.structs.replace(task(), attempt=2)))
    await until(lambda: left not in world.host.containers)
    world.keeper.free.set()
    outcome = await following

    assert outcome.exit_code == 0
    assert world.keeper.runs == ["x"]
    assert left not in world.host.containers
    naming.cancel()


async def test_a_run_that_another_named_is_stopped(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to the rename was lost, and the reaper did it again: `cancel` finds the run."""
    real = ScriptedRuntime.rename

    world.keeper.free.clear()
    with monkeypatch.context() as failed:
        failed.setattr(ScriptedRuntime, "rename", failing)
        running = asyncio.create_task(world.launcher.run(task()))
        await until(lambda: world.pool._namings)
        await asyncio.wait(world.pool._namings.values())
    waiting = world.launcher._directory(task()).container
    assert await real(world.runtime, waiting, world.launcher._place.name(task()))
    await world.launcher.stop(task())
    outcome = await asyncio.wait_for(running, 10)
    await world.launcher.clear(task(), outcome)

    assert outcome.exit_code != 0
    assert not world.host.containers.keys() - world.waiting


async def test_a_full_disk_is_the_hosts_fault(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As without a pool: it is said, and nothing was started."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(workdir.WorkDir, "take_over", full)
    with pytest.raises(RuntimeUnavailable, match="No space left"):
        await world.launcher.run(task())

    assert world.keeper.runs == []


async def test_one_warning_where_there_is_no_shell(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Tasks get containers of their own, as if nobody had asked for more."""
    world = World(tmp_path, MODULE)

    def shellless(spec: ContainerSpec, work: Path) -> int:
        if spec.labels.get("sbx.role") == "warm":
            raise not_started(127)
        return emits(spec, work)

    world.host.program = shellless
    with caplog.at_level(logging.WARNING):
        world.launcher.open()
        await until(lambda: world.pool.why)
        outcomes = [await world.launcher.run(task(f"m{number}")) for number in range(3)]
        await world.launcher.close()

    assert [outcome.exit_code for outcome in outcomes] == [0, 0, 0]
    assert "/bin/sh" in world.pool.why
    assert [record.message for record in caplog.records] == ["warm_off"]


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (msgspec.structs.replace(MODULE, env={"PWD": "/", "A": "1"}), "PWD"),
        (msgspec.structs.replace(MODULE, command=(), args=()), "command"),
        (msgspec.structs.replace(MODULE, limits=Limits(gpus=1)), "GPU"),
    ],
)
async def test_what_no_shell_can_hand_on_is_not_warm(
    tmp_path: Path, module: Module, why: str
) -> None:
    """The contract is kept rather than the wish."""
    world = World(tmp_path, module)
    world.launcher.open()
    await asyncio.sleep(0)

    assert why in world.pool.why
    assert world.host.containers == {}
    await world.launcher.close()


async def test_another_image_under_the_same_name_is_noticed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits was made of the old one, and is replaced."""
    before = world.waiting

    async def another(_: object, __: str) -> str:
        return "another"

    monkeypatch.setattr(ScriptedRuntime, "identity", another)
    world.pool._due.set()
    await until(lambda: not world.waiting & before and world.pool.states["ready"] == 2)

    assert len(world.waiting) == 2


async def test_an_image_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    """A pool does not try again and again, but begins once it is there."""
    world = World(tmp_path, MODULE)
    world.host.images = set()
    world.launcher.open()
    await until(lambda: world.pool.why)
    starts = len(world.host.starts)
    with pytest.raises(ImageMissing):
        await world.launcher.run(task())
    world.host.images = {"i"}
    world.pool._due.set()
    await until(lambda: world.pool.states["ready"] == 2)

    assert (starts, world.pool.why) == (0, "")
    await world.launcher.close()


async def test_few_are_started_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Filling a pool leaves the engine to those that run: one start at a time on a node."""
    world = World(tmp_path, msgspec.structs.replace(MODULE, warm=5))
    real, most, now = ScriptedRuntime.adopt_or_start, 0, 0

    async def counted(runtime: ScriptedRuntime, spec: ContainerSpec) -> object:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1
        return await real(runtime, spec)

    monkeypatch.setattr(ScriptedRuntime, "adopt_or_start", counted)
    await world.full()

    assert most == 1
    await world.launcher.close()


async def test_a_node_that_ends_starts_no_more(world: World) -> None:
    """What waits is used up by what is still in hand, and not replaced."""
    world.launcher.hold()
    await world.launcher.run(task())
    world.pool._due.set()
    await asyncio.sleep(0.05)

    assert len(world.waiting) == 1


async def test_a_failed_program_is_no_matter_of_the_gate(world: World) -> None:
    """An exit code is the program's."""
    world.keeper._program = lambda _, __: 7
    outcome = await world.launcher.run(task())

    assert (outcome.exit_code, outcome.cause) == (7, Cause.EXIT)


def test_the_pause_after_a_failure_grows() -> None:
    """An engine that cannot start containers is not asked without end."""
    assert list(warm._PAUSES) == sorted(warm._PAUSES)
    assert warm._PAUSES[-1] >= 30
