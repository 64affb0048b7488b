"""The name that a warm container gets with its task: late, by another, or never."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from unit.warmworld import MODULE, World, emits, full_world, task, until

from scalebox_actors.errors import RuntimeUnavailable
from scalebox_actors.launch.fresh import FreshLauncher
from scalebox_actors.spec import ContainerSpec
from scalebox_actors.testing.scripted import ScriptedRuntime


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A host on which two containers wait."""
    async with full_world(tmp_path) as made:
        yield made


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
