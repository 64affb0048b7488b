"""The life of a slot with real shells: its hooks, its ends, and containers and nodes that die."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from integration.slotlab import KINDS, Lab, processes, slot_lab, until

from scalebox_actors.errors import NotAdmitted, SpecRejected
from scalebox_actors.names import Names
from scalebox_actors.node import Node
from scalebox_actors.node import Settings as NodeSettings
from scalebox_actors.records import Cause
from scalebox_actors.runtimes.oci_images import ImageStore
from scalebox_actors.testing.memory import MemoryBroker
from scalebox_actors.topology.model import Duration, Keep, Module, Topology

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture(params=KINDS)
async def lab(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Lab]:
    """Each runtime in turn."""
    async with slot_lab(request, tmp_path) as made:
        yield made


async def test_a_program_that_kills_its_agent_fails_alone(lab: Lab) -> None:
    """The slot is opened anew for the next message; the failure is that program's own."""
    slots = lab.slots('[ "$1" = bad ] && { kill -9 $PPID; sleep 100; }; echo fine')
    bad = await slots.run(lab.task("bad"))
    good = await slots.run(lab.task("good"))

    assert bad.exit_code != 0
    assert (good.exit_code, good.stdout.text) == (0, "fine\n")


async def test_a_container_that_is_removed_costs_nobody_an_attempt(lab: Lab) -> None:
    """Ended from outside in the middle of a run, the task is lost, not failed."""
    slots = lab.slots("echo begun > mark; sleep 300")
    run = asyncio.create_task(slots.run(lab.task()))
    await until(lambda: list(lab.base.glob("*/1/mark")))
    (stray,) = await lab.runtime.stray({"sbx.topology": lab.topology})
    await lab.runtime.remove(stray.name)
    outcome = await run

    assert outcome.exit_code != 0
    assert outcome.cause in (Cause.LOST, Cause.EXIT)
    assert stray.labels["sbx.role"] == "slot"


async def test_a_run_can_be_stopped(lab: Lab) -> None:
    """Somebody's wish is no verdict: the run is lost, and the slot opens for the next one."""
    slots = lab.slots('[ "$1" = slow ] && { touch mark; sleep 300; }; echo ok')
    task = lab.task("slow")
    run = asyncio.create_task(slots.run(task))
    await until(lambda: list(lab.base.glob("*/1/mark")))
    await slots.stop(task)
    outcome = await run
    after = await slots.run(lab.task("quick"))

    assert (outcome.cause, outcome.exit_code) == (Cause.LOST, 123)
    assert after.stdout.text == "ok\n"


async def test_after_so_many_runs_another_container_takes_over(lab: Lab) -> None:
    """The last task of a container is told so; files of the slot do not outlive it."""
    slots = lab.slots('echo "$2"; echo x >> runs; wc -l < runs', keep=Keep(runs=2))
    told = [(await slots.run(lab.task())).stdout.text.split() for _ in range(4)]
    last = '{"slot_last_task":"yes"}'

    assert told == [["{}", "1"], [last, "2"], ["{}", "1"], [last, "2"]]


async def test_an_idle_slot_ends_and_opens_again(lab: Lab) -> None:
    """Without a message for long nothing is left on the host; the next message finds a slot."""
    slots = lab.slots("echo ok", keep=Keep(idle=Duration(0.3)))
    await slots.run(lab.task())
    async with asyncio.timeout(30):
        while slots.states != {"OFF": 1} or await lab.left():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    outcome = await slots.run(lab.task())

    assert outcome.stdout.text == "ok\n"


async def test_the_agent_of_a_dead_node_ends_by_itself(lab: Lab) -> None:
    """A node that dies lets go of its pipes: its idle agents read their end."""
    slots = lab.slots("echo ok")
    await slots.run(lab.task())
    (stray,) = await lab.runtime.stray({"sbx.topology": lab.topology})
    (slot,) = slots._slots
    assert slot._container is not None
    assert slot._container._door is not None
    slot._container._door.close()
    async with asyncio.timeout(30):
        while (await lab.runtime.stray({"sbx.topology": lab.topology}))[0].running:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    assert stray.running


async def test_the_hooks_of_a_slots_life(lab: Lab) -> None:
    """Setup once, check and run for every message with its arguments, teardown at the end."""
    note = 'echo "{0} $# $1 $2" >> life; cat life > "$WORK_DIR/../../life"'
    if lab.runtime.work_path:
        note = 'echo "{0} $# $1 $2" >> life; cat life'
    hooks = {name: note.format(name) for name in ("setup", "check", "run", "teardown")}
    slots = lab.slots("", **lab.hooks(**hooks))
    await slots.run(lab.task("one"))
    outcome = await slots.run(lab.task("two", k="v"))
    await slots.close()
    life = ["setup 0", "check 2 one {}", "run 2 one {}", 'check 2 two {"k":"v"}']
    life.append('run 2 two {"k":"v"}')
    if lab.runtime.work_path:
        told = outcome.stdout.text
    else:
        told = (lab.base / "life").read_text()
        (lab.base / "life").unlink()
        life.append("teardown 0")

    assert [line.strip() for line in told.splitlines()] == life


async def test_a_setup_that_fails_closes_the_slot(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened again with back-off, then the module is suspended with what its setup said."""
    monkeypatch.setattr("scalebox_actors.launch.slot.LONGEST_PAUSE", 0.01)
    hooks = lab.hooks(setup="echo no licence >&2; exit 4", run="true")
    slots = lab.slots("", **hooks, keep=Keep(restarts=1))
    with pytest.raises(SpecRejected, match="slot 0: setup ended with 4: no licence"):
        await slots.run(lab.task())
    with pytest.raises(SpecRejected, match="setup ended with 4"):
        await slots.ready()

    assert slots.states == {"ERROR": 1}


async def test_a_check_that_says_no_lets_nothing_in(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message waits until the check lets it in; if the node ends before, nothing was begun."""
    monkeypatch.setattr("scalebox_actors.launch.slot.SLOT_CHECK", 0.05)
    hooks = lab.hooks(check='echo >> n; [ "$1" = in ] && [ $(wc -l < n) -ge 3 ]', run="wc -l < n")
    slots = lab.slots("", **hooks)
    outcome = await slots.run(lab.task("in"))
    waiting = asyncio.create_task(slots.run(lab.task("never")))
    await asyncio.wait([waiting], timeout=0.3)
    slots.hold()
    with pytest.raises(NotAdmitted):
        await waiting

    assert outcome.stdout.text == "3\n"


async def test_a_slot_whose_runs_are_too_short_closes(lab: Lab) -> None:
    """Three on end, whatever their code: a broken host must not drain the queue."""
    slots = lab.slots("exit 9", keep=Keep(shortest=Duration(30)))
    codes = [(await slots.run(lab.task())).exit_code for _ in range(3)]
    with pytest.raises(SpecRejected, match=r"3 runs on end took less than 30 s"):
        await slots.run(lab.task())

    assert codes == [9] * 3
    assert slots.states == {"GREEDY": 1}


async def test_a_slot_that_cannot_open_leaves_its_work_to_others(lab: Lab) -> None:
    """With one slot closed the module goes on; its messages run in the other."""
    hooks = lab.hooks(setup='[ "$SLOT_SEQ" = 1 ]', run='echo "$SLOT_SEQ"')
    slots = lab.slots("", **hooks, slots=2, keep=Keep(restarts=0))
    outcomes = [await slots.run(lab.task()) for _ in range(3)]

    assert [o.stdout.text for o in outcomes] == ["1\n"] * 3
    assert slots.states == {"ERROR": 1, "ON": 1}


NODE = """
import asyncio, sys
from pathlib import Path
from scalebox_actors.launch import workdir
from scalebox_actors.launch.environment import Surroundings
from scalebox_actors.launch.slots import SlotLauncher
from scalebox_actors.launch.workplace import Workplace
from scalebox_actors.message import Message
from scalebox_actors.ports import Task
from scalebox_actors.runtimes.docker import DockerRuntime
from scalebox_actors.runtimes.oci import OciRuntime
from scalebox_actors.runtimes.oci_images import ImageStore
from scalebox_actors.runtimes.process import ProcessRuntime
from scalebox_actors.topology.model import Launch, Module

async def open_runtime(kind, state, images):
    if kind == "process":
        return await ProcessRuntime.open(state)
    if kind == "oci":
        return await OciRuntime.over(ImageStore(Path(images)), state)
    return await DockerRuntime.open()

async def main(kind, state, base, topology, image, images):
    runtime = await open_runtime(kind, state, images)
    place = Workplace(
        runtime=runtime, base=workdir.make_base(Path(base)),
        surroundings=Surroundings(topology=topology, node="n1"),
    )
    script = 'echo $$ > begun; [ "$1" = x ] && sleep 876543; true'
    module = Module(
        name="a", image=image, command=("/bin/sh", "-c", script, "program"), launch=Launch.SLOT
    )
    await SlotLauncher(module, place).run(Task(message=Message(module="a", id="m1", body=b"x")))

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_killed_node_leaves_nothing_to_the_next(
    lab: Lab, tmp_path: Path, oci_images: ImageStore
) -> None:
    """Its container, with the message in it, is ended before the next node opens its own."""
    where = (str(tmp_path / "state"), str(lab.base))
    words = (lab.runtime.kind, *where, lab.topology, lab.image, str(oci_images.root))
    node = await asyncio.create_subprocess_exec(sys.executable, "-c", NODE, *words)
    await until(lambda: list(lab.base.glob("*/1/begun")))
    node.kill()
    await node.wait()
    (left,) = await lab.runtime.stray({"sbx.topology": lab.topology, "sbx.role": "slot"})
    broker = MemoryBroker(Names(lab.topology), ["a"])
    broker.send("a", b"y", {"Nats-Msg-Id": "m1"})
    module = lab.module('echo "$1"')
    topology = Topology(name=lab.topology, modules={"a": module, "b": Module(name="b", image="i")})
    successor = Node(topology, broker, lab.runtime, NodeSettings(name="n1", base=lab.base))
    work = asyncio.create_task(successor.run())
    await until(lambda: broker.messages(f"sbx.{lab.topology}.local.done.>"))
    names = [s.name for s in await lab.runtime.stray({"sbx.topology": lab.topology})]
    sleeping = processes("876543")
    successor.stop()
    await work

    assert left.name not in names
    assert sleeping == []
    assert await lab.left() == []
