"""The pool of warm containers: what it starts, what it gives away, and when it leaves off."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from unit.warmworld import MODULE, World, emits, full_world, task, until

from scalebox_actors.errors import ImageMissing, RuntimeUnavailable
from scalebox_actors.launch import warm, workdir
from scalebox_actors.records import Cause
from scalebox_actors.spec import ContainerSpec
from scalebox_actors.testing.scripted import ScriptedRuntime, not_started
from scalebox_actors.topology.model import Limits, Module


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A host on which two containers wait."""
    async with full_world(tmp_path) as made:
        yield made


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


async def test_a_task_that_left_something_here_is_run_as_without_a_pool(world: World) -> None:
    """An earlier attempt's directory is there: what belongs to it has to go first."""
    left = world.launcher._place.directory(task())
    left.prepare(task())
    before = world.waiting
    outcome = await world.launcher.run(msgspec.structs.replace(task(), attempt=2))

    assert outcome.exit_code == 0
    assert world.waiting == before


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
