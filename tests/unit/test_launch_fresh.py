"""Launch mode `fresh`: what becomes of runs that end in the node's absence, and of full disks."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from scalebox_actors import trees
from scalebox_actors.errors import NotAdmitted, NotPermitted, RuntimeUnavailable, SpecRejected
from scalebox_actors.launch import workdir
from scalebox_actors.launch.environment import Surroundings
from scalebox_actors.launch.fresh import FreshLauncher
from scalebox_actors.launch.workplace import Workplace
from scalebox_actors.message import Message
from scalebox_actors.ports import Exit, Task
from scalebox_actors.records import Cause, Outcome
from scalebox_actors.spec import ContainerSpec
from scalebox_actors.testing.scripted import Host, ScriptedRuntime
from scalebox_actors.topology.model import Duration, Module

TASK = Task(message=Message(module="a", id="m1", body=b"x"))


Turn = Callable[[str], Awaitable[None]]


async def _turn(_: str) -> None:
    """Take a turn of the loop, as every answer of a real engine does."""
    await asyncio.sleep(0.01)


def launcher(
    host: Host, base: Path, *, turn: Turn = _turn, lanes: bool = False, timeout: float = 10
) -> FreshLauncher:
    """Return the launcher of a node that has just been started."""
    place = Workplace(
        runtime=ScriptedRuntime(host, turn, lanes=lanes),
        base=workdir.make_base(base),
        surroundings=Surroundings(topology="t", node="n1"),
    )
    module = Module(name="a", image="i", command=("p",), timeout=Duration(timeout))
    return FreshLauncher(module, place)


async def forever(_: ContainerSpec, __: Path) -> int:
    """Run until ended."""
    await asyncio.Event().wait()
    return 0


async def started(host: Host) -> None:
    """Wait for the first start."""
    async with asyncio.timeout(5):
        while not host.starts:  # noqa: ASYNC110 - a list tells nobody
            await asyncio.sleep(0.005)


async def adopted_after(seconds: float, end: Exit | None, base: Path) -> Outcome:
    """Start a run, let its node die and come back so much later; meanwhile it may have ended."""
    host = Host(program=forever)
    first = asyncio.create_task(launcher(host, base).run(TASK))
    await started(host)
    first.cancel()
    await asyncio.wait([first])
    (name,) = host.containers
    if end is not None:
        host.end(name, end)
    before = time.time() - seconds
    os.utime(base / name, (before, before))
    return await launcher(host, base).run(TASK)


async def test_a_run_that_ended_in_time_is_no_timeout_however_late_it_is_adopted(
    tmp_path: Path,
) -> None:
    """The exited container is the log: a node that was away for hours takes its end as it was."""
    began = time.time() - 3600
    outcome = await adopted_after(3600, Exit(code=0, started=began, finished=began + 5), tmp_path)

    assert (outcome.exit_code, outcome.cause) == (0, Cause.EXIT)


async def test_a_run_that_is_adopted_past_its_limit_is_ended(tmp_path: Path) -> None:
    """The time in which nobody watched counts: what still runs then is ended at once."""
    outcome = await adopted_after(3600, None, tmp_path)

    assert (outcome.exit_code, outcome.cause) == (124, Cause.TIMEOUT)


async def test_a_full_disk_is_the_hosts_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A work directory that cannot be made is tried again, and says why; nothing is started."""
    host = Host(program=forever)
    node = launcher(host, tmp_path)

    def full(_: object, __: Task) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(workdir.WorkDir, "prepare", full)
    with pytest.raises(RuntimeUnavailable, match="No space left"):
        await node.run(TASK)

    assert host.starts == []


async def test_a_run_whose_work_directory_has_gone_is_run_again(tmp_path: Path) -> None:
    """An exited container without its files says nothing: taken for done, its outputs were lost."""

    def program(_: ContainerSpec, work: Path) -> int:
        (work / "sink-tasks.txt").write_text("out\n")
        return 0

    host = Host(program=program)
    await launcher(host, tmp_path).run(TASK)
    trees.remove_tree(tmp_path / host.starts[0])
    outcome = await launcher(host, tmp_path).run(TASK)

    assert [emission.body for emission in outcome.emissions] == [b"out"]
    assert len(host.starts) == 2


async def test_a_mount_that_is_missing_is_the_hosts_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that this host has not suspends the module here; the task is not to blame."""

    async def refused(_: object, __: ContainerSpec) -> None:
        raise NotPermitted("/data/in: no such directory to mount")

    monkeypatch.setattr(ScriptedRuntime, "adopt_or_start", refused)

    with pytest.raises(SpecRejected, match="/data/in: no such directory"):
        await launcher(Host(program=forever), tmp_path).run(TASK)


def numbered(number: int) -> Task:
    """Return one of several tasks."""
    return Task(message=Message(module="a", id=f"m{number}", body=b"x"))


async def test_the_time_limit_begins_with_the_turn(tmp_path: Path) -> None:
    """What a run waited for others is not its own time."""

    async def program(_: ContainerSpec, __: Path) -> int:
        await asyncio.sleep(0.6)
        return 0

    node = launcher(Host(program=program), tmp_path, lanes=True, timeout=1.1)

    outcomes = await asyncio.gather(node.run(numbered(1)), node.run(numbered(2)))

    assert [(outcome.exit_code, outcome.cause) for outcome in outcomes] == [(0, Cause.EXIT)] * 2


async def test_one_that_had_its_turn_is_ended_at_its_limit(tmp_path: Path) -> None:
    """The limit holds, however long it waited before."""

    async def program(spec: ContainerSpec, _: Path) -> int:
        await (asyncio.sleep(0.2) if spec.labels["sbx.id"] == "m1" else asyncio.Event().wait())
        return 0

    node = launcher(Host(program=program), tmp_path, lanes=True, timeout=1.0)
    began = time.monotonic()

    outcomes = await asyncio.gather(node.run(numbered(1)), node.run(numbered(2)))

    assert [outcome.cause for outcome in outcomes] == [Cause.EXIT, Cause.TIMEOUT]
    assert time.monotonic() - began >= 1.15


async def test_behind_a_long_run_nothing_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task is not to blame, and nobody will start it here later."""
    monkeypatch.setattr("scalebox_actors.launch.fresh.TURN", 0.05)
    host = Host(program=forever)
    node, said = launcher(host, tmp_path, lanes=True), list[int]()
    node.watch_room(said.append)
    first = asyncio.create_task(node.run(numbered(1)))
    await started(host)

    with pytest.raises(NotAdmitted, match="behind long runs"):
        await node.run(numbered(2))

    assert len(host.starts) == len(host.containers) == 1
    await node.stop(numbered(1))
    await first


async def test_behind_runs_of_an_earlier_life_it_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given back, the message would come again at once: it is in hand until its turn comes."""
    monkeypatch.setattr("scalebox_actors.launch.fresh.TURN", 0.02)
    hold = asyncio.Event()

    async def program(spec: ContainerSpec, _: Path) -> int:
        if spec.labels["sbx.id"] == "m1":
            await hold.wait()
        return 0

    host = Host(program=program)
    died = asyncio.create_task(launcher(host, tmp_path, lanes=True).run(numbered(1)))
    await started(host)
    died.cancel()
    await asyncio.wait([died])
    waiting = asyncio.create_task(launcher(host, tmp_path, lanes=True).run(numbered(2)))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    assert len(host.starts) == 1
    hold.set()

    assert (await waiting).exit_code == 0


async def test_what_waits_is_given_back_when_the_node_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drain need not wait for runs that are not its own."""
    monkeypatch.setattr("scalebox_actors.launch.fresh.TURN", 0.02)
    host = Host(program=forever)
    died = asyncio.create_task(launcher(host, tmp_path, lanes=True).run(numbered(1)))
    await started(host)
    died.cancel()
    await asyncio.wait([died])
    node = launcher(host, tmp_path, lanes=True)
    waiting = asyncio.create_task(node.run(numbered(2)))
    await asyncio.sleep(0.05)

    node.hold()

    with pytest.raises(NotAdmitted):
        await asyncio.wait_for(waiting, 5)
    assert len(host.starts) == 1


async def test_a_task_that_is_ended_while_it_is_started_does_not_run_on(tmp_path: Path) -> None:
    """There is nothing to kill yet: that it is not wanted is remembered until it is cleared."""
    begins, may_begin = asyncio.Event(), asyncio.Event()

    async def slow(step: str) -> None:
        if step == "runtime.adopt_or_start":
            begins.set()
            await may_begin.wait()
        await asyncio.sleep(0)

    host = Host(program=forever)
    one = launcher(host, tmp_path, turn=slow)
    run = asyncio.create_task(one.run(TASK))
    await begins.wait()
    await one.stop(TASK)
    may_begin.set()
    async with asyncio.timeout(5):
        outcome = await run
    again = await one.run(TASK)
    await one.clear(TASK)

    assert outcome.exit_code != 0
    assert (again.cause, again.detail) == (Cause.LOST, "it was stopped before it began")
    assert len(host.starts) == 1
