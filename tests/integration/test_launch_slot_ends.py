"""Slots that are told to end while something begins, runs or is collected in them."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from integration.slotlab import KINDS, Lab, slot_lab, until

from scalebox_actors.errors import NotAdmitted
from scalebox_actors.launch import slot_container
from scalebox_actors.launch.outcomes import collect
from scalebox_actors.launch.slots import SlotLauncher
from scalebox_actors.ports import Run, Task
from scalebox_actors.records import Cause, Outcome
from scalebox_actors.runtimes.process import ProcessRuntime
from scalebox_actors.spec import Ceiling, ContainerSpec, Root
from scalebox_actors.topology.model import Keep

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


class Slow(ProcessRuntime):
    """Plain processes on a host that takes its time to start one, before or after."""

    before = after = 0.0

    async def adopt_or_start(self, spec: ContainerSpec) -> Any:
        """Start it, slowly."""
        await asyncio.sleep(self.before)
        run: Run = await super().adopt_or_start(spec)
        await asyncio.sleep(self.after)
        return run


@pytest.fixture(params=KINDS)
async def lab(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Lab]:
    """Each runtime in turn."""
    async with slot_lab(request, tmp_path) as made:
        yield made


@pytest.fixture
async def slow(tmp_path: Path) -> AsyncIterator[Lab]:
    """A slow host."""
    runtime = await Slow.open(tmp_path / "state")
    made = Lab(runtime, tmp_path / "work", "none")
    yield made
    await made.close()
    left = await made.left()
    await runtime.close()

    assert left == []


def mark(lab: Lab, name: str = "mark") -> bool:
    """Whether a program has left a file of that name in its work directory."""
    return bool(list(lab.base.glob(f"*/1/{name}")))


@pytest.mark.parametrize("trap", ["", "trap '' TERM;"], ids=["obeys", "ignores"])
async def test_what_runs_at_the_end_of_the_node_is_not_admitted(lab: Lab, trap: str) -> None:
    """Its message can be given back: nothing of it runs any more, and nobody is to blame."""
    slots = lab.slots(f"{trap} touch mark; sleep 300")
    run = asyncio.create_task(slots.run(lab.task()))
    await until(lambda: mark(lab))
    await slots.close()

    with pytest.raises(NotAdmitted):
        await run
    assert await lab.left() == []


@pytest.mark.parametrize("hook", ["setup", "check"])
async def test_a_hook_that_runs_at_the_end_of_the_node_ends(lab: Lab, hook: str) -> None:
    """Whatever a slot is at, its message goes back."""
    scripts = {hook: 'touch "$WORK_DIR/mark"; sleep 300', "run": "true"}
    slots = lab.slots("", **lab.hooks(**scripts))
    run = asyncio.create_task(slots.run(lab.task()))
    await until(lambda: mark(lab))
    await slots.close()

    with pytest.raises(NotAdmitted):
        await run


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_container_that_starts_at_the_end_of_the_node_goes(slow: Lab, when: str) -> None:
    """Its pipes are closed once it stands, not under it: their numbers may be others' by then."""
    setattr(slow.runtime, when, 0.3)
    slots = slow.slots("sleep 300")
    run = asyncio.create_task(slots.run(slow.task()))
    await asyncio.sleep(0.15)
    await slots.close()

    with pytest.raises(NotAdmitted):
        await run


async def test_what_a_program_left_is_collected_before_its_slot_ends(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that collects may be slow just when the node ends; outputs come whole then, too."""
    gate, reached = threading.Event(), threading.Event()

    def slowly(*arguments: Any) -> Outcome:
        reached.set()
        gate.wait(30)
        return collect(*arguments)

    monkeypatch.setattr(slot_container, "collect", slowly)
    slots = lab.slots("echo a >sink-tasks.txt; echo b >>sink-tasks.txt")
    run = asyncio.create_task(slots.run(lab.task()))
    await until(reached.is_set)
    end = asyncio.create_task(slots.close())
    await asyncio.wait([end], timeout=0.5)
    gate.set()
    await end
    outcome = await run

    assert (outcome.exit_code, outcome.cause) == (0, Cause.EXIT)
    assert [e.body for e in outcome.emissions] == [b"a", b"b"]


async def test_a_task_that_is_ended_during_setup_never_begins(lab: Lab) -> None:
    """The slot is not to blame for its setup, and the next task finds it as it was."""
    scripts = {"setup": 'touch "$WORK_DIR/mark"; sleep 2', "run": "echo ran >>$WORK_DIR/runs"}
    slots = lab.slots("", **lab.hooks(**scripts))
    task = lab.task()
    run = asyncio.create_task(slots.run(task))
    await until(lambda: mark(lab))
    await slots.stop(task)
    outcome = await run

    assert (outcome.cause, outcome.detail) == (Cause.LOST, "it was stopped before it began")
    assert not mark(lab, "runs")
    assert slots.states == {"READY": 1}


async def test_a_task_that_is_ended_while_its_container_starts_never_begins(slow: Lab) -> None:
    """There is nothing to kill yet; that it is not wanted is remembered."""
    slow.runtime.after = 0.3  # type: ignore[attr-defined]  # a slow one
    slots = slow.slots("touch mark; sleep 300")
    fresh = slow.fresh("sleep 300")
    tasks = slow.task(), slow.task()
    runs = [asyncio.create_task(slots.run(tasks[0])), asyncio.create_task(fresh.run(tasks[1]))]
    await asyncio.sleep(0.15)
    await slots.stop(tasks[0])
    await fresh.stop(tasks[1])
    async with asyncio.timeout(20):
        in_slot, alone = await asyncio.gather(*runs)
    await fresh.clear(tasks[1])
    await fresh.close()

    assert (in_slot.cause, in_slot.detail) == (Cause.LOST, "it was stopped before it began")
    assert alone.exit_code != 0


@pytest.mark.parametrize("keep", [None, Keep(runs=1)], ids=["open", "used up"])
async def test_files_declared_as_removable_go_though_the_container_went(
    lab: Lab, keep: Keep | None
) -> None:
    """They are removed after the commit; by then the slot may have ended."""
    data = lab.base.parent / "data"
    data.mkdir()
    data.chmod(0o777)
    place, victim = lab.place, data / "big.fits"
    victim.write_text("x")
    seen = f"/data/{victim.name}" if lab.runtime.work_path else str(victim)
    target = "/data" if lab.runtime.work_path else str(data)
    roots = {"data": Root(path=str(data), writable=True)}
    slots = SlotLauncher(
        lab.module(
            f"echo {seen} >removed-files.txt",
            mounts=(f"data:.:{target}:rw",),
            **({"keep": keep} if keep else {}),
        ),
        msgspec.structs.replace(place, ceiling=Ceiling(roots=roots)),
    )
    task: Task = lab.task()
    outcome = await slots.run(task)
    await slots.close()
    was_there = victim.exists()
    await slots.clear(task, outcome)

    assert (outcome.removed, was_there, victim.exists()) == ((seen,), True, False)
