"""What a runtime promises that lets runs take turns: the double and plain processes alike."""

import asyncio
import os
import resource
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from contract.laboratory import Laboratory

from scalebox_actors.errors import RuntimeUnavailable
from scalebox_actors.ports import Runtime
from scalebox_actors.runtimes.process import ProcessRuntime
from scalebox_actors.spec import ContainerSpec, Lane
from scalebox_actors.testing.scripted import Host, ScriptedRuntime

pytestmark = pytest.mark.timeout(60)

SCRIPT = """
echo "$SEAT" >> ran
while [ -e hold ]; do sleep 0.01; done
"""


class Lab(Laboratory):
    """A host with a lane on it."""

    def __init__(self, kind: str, place: Path) -> None:
        super().__init__(kind, place, Host(program=_program))
        self.state = place / "state"

    async def runtime(self) -> Runtime:
        """Open a runtime of this kind."""
        if self.kind == "scripted":
            return ScriptedRuntime(self.host, lanes=True)
        return await ProcessRuntime.open(self.state)

    def spec(self, name: str, *, seats: int = 1, lane: str = "m") -> ContainerSpec:
        """Return a run of the lane that goes on until it is let go."""
        (self.work(name)).mkdir(exist_ok=True)
        (self.work(name) / "hold").touch()
        return ContainerSpec(
            name=f"sbx-{self.topology}.m.{name}",
            image="",
            command=("/bin/sh", "-c", SCRIPT),
            env={"SEAT": "wrong"},
            labels={"sbx.topology": self.topology, "sbx.attempt": "1"},
            work=str(self.work(name)),
            lane=Lane(name=lane, seats=seats, variables={"SEAT": "seat "}),
        )

    def work(self, name: str) -> Path:
        """Return the work directory of a run."""
        return self.place / name

    def let_go(self, *names: str) -> None:
        """Let runs end, now or once they have begun."""
        for name in names:
            (self.work(name) / "hold").unlink()

    def seat(self, name: str) -> str:
        """Return which seat a run was told; empty if it has not begun."""
        told = self.work(name) / "ran"
        return told.read_text() if told.exists() else ""

    async def began(self, name: str) -> str:
        """Wait until a run has begun, and return its seat."""
        async with asyncio.timeout(10):
            while not self.seat(name):  # noqa: ASYNC110 - files send no events
                await asyncio.sleep(0.01)
        return self.seat(name)


async def _program(spec: ContainerSpec, work: Path) -> int:
    with (work / "ran").open("a") as file:
        file.write(spec.env["SEAT"] + "\n")
    while (work / "hold").exists():  # noqa: ASYNC110 - files send no events
        await asyncio.sleep(0.01)
    return 0


@pytest.fixture(params=["scripted", "process"])
async def lab(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Lab]:
    """Return a host with the runtime in question."""
    made = Lab(request.param, tmp_path)
    yield made
    await made.clean()


async def test_no_more_run_at_once_than_there_are_seats(lab: Lab) -> None:
    """Who comes first begins first, each with a seat that nobody else has then."""
    node = await lab.node()
    assert node.lanes
    runs = [await node.adopt_or_start(lab.spec(name, seats=2)) for name in ("a", "b", "c", "d")]

    assert [run.waits for run in runs] == [False, False, True, True]
    assert {await lab.began("a"), await lab.began("b")} == {"seat 0\n", "seat 1\n"}
    assert (lab.seat("c"), lab.seat("d")) == ("", "")

    lab.let_go("b")
    assert (await runs[1].wait()).code == 0
    assert await lab.began("c") == lab.seat("b")
    assert lab.seat("d") == ""

    lab.let_go("a", "c", "d")
    ends = await asyncio.gather(*(run.wait() for run in runs))
    assert [end.code for end in ends] == [0, 0, 0, 0]
    assert ends[3].started >= min(end.finished for end in ends) - 0.01


async def test_lanes_do_not_wait_for_each_other(lab: Lab) -> None:
    """A full lane holds up nobody else."""
    node = await lab.node()
    await node.adopt_or_start(lab.spec("a"))

    run = await node.adopt_or_start(lab.spec("b", lane="other"))

    assert not run.waits
    assert await lab.began("b") == "seat 0\n"


async def test_a_run_says_when_its_turn_has_come(lab: Lab) -> None:
    """At once if it has ended by then, else when the one who asks loses patience."""
    node = await lab.node()
    first = await node.adopt_or_start(lab.spec("a"))
    second = await node.adopt_or_start(lab.spec("b"))
    lab.let_go("a")
    end = await first.wait()
    await lab.began("b")

    began = await second.begun(0.3, leave=False)

    assert began is not None
    assert began >= end.started
    lab.let_go("b")
    assert (await second.wait()).code == 0
    assert await second.begun(0.3, leave=True) is not None


async def test_who_waits_for_too_long_never_begins(lab: Lab) -> None:
    """It is taken out of line; those behind it keep their places."""
    node = await lab.node()
    await node.adopt_or_start(lab.spec("a"))
    second = await node.adopt_or_start(lab.spec("b"))
    third = await node.adopt_or_start(lab.spec("c"))

    assert await second.begun(0.1, leave=False) is None
    assert await node.find(second.name) is not None
    assert await second.begun(0.1, leave=True) is None

    assert await node.find(second.name) is None
    lab.let_go("a", "c")
    assert (await third.wait()).code == 0
    assert lab.seat("b") == ""


async def test_one_that_waits_can_be_ended(lab: Lab) -> None:
    """It ends as one that was terminated, and was never begun."""
    node = await lab.node()
    await node.adopt_or_start(lab.spec("a"))
    second = await node.adopt_or_start(lab.spec("b"))
    third = await node.adopt_or_start(lab.spec("c"))

    await second.stop(5.0)

    assert (await second.wait()).code == 143
    lab.let_go("a", "c")
    assert (await third.wait()).code == 0
    assert lab.seat("b") == ""


async def test_one_that_waits_can_be_removed(lab: Lab) -> None:
    """As any other run; its name is free then."""
    node = await lab.node()
    first = await node.adopt_or_start(lab.spec("a"))
    second = await node.adopt_or_start(lab.spec("b"))

    await node.remove(second.name)

    assert await node.find(second.name) is None
    again = await node.adopt_or_start(lab.spec("b"))
    assert (again.adopted, again.waits) == (False, True)
    await node.remove(first.name)  # while it runs: its seat is free by that
    assert await lab.began("b") == "seat 0\n"


async def test_one_that_waited_for_a_killed_node_is_adopted(lab: Lab) -> None:
    """It begins in its turn; the next node finds it, begun or not."""
    node = await lab.node()
    await node.adopt_or_start(lab.spec("a"))
    wanted = lab.spec("b")
    await node.adopt_or_start(wanted)
    again = await lab.node()

    run = await again.adopt_or_start(wanted)

    assert (run.adopted, run.waits) == (True, True)
    lab.let_go("a", "b")
    assert await run.begun(10.0, leave=False) is not None
    assert (await run.wait()).code == 0
    assert lab.seat("b") == "seat 0\n"


@pytest.mark.parametrize("lab", ["process"], indirect=True)
async def test_a_program_that_cannot_be_executed_holds_nobody_up(lab: Lab) -> None:
    """Its seat is free again at once, also if it came to it by waiting."""
    node = await lab.node()
    first = await node.adopt_or_start(lab.spec("a"))
    broken = msgspec.structs.replace(lab.spec("b"), command=("/absent/program",))
    second = await node.adopt_or_start(broken)
    third = await node.adopt_or_start(lab.spec("c"))

    lab.let_go("a", "c")

    assert (await second.wait()).not_started
    assert [(await run.wait()).code for run in (first, third)] == [0, 0]
    fourth = await node.adopt_or_start(
        msgspec.structs.replace(lab.spec("d"), command=("/absent/program",))
    )
    assert (await fourth.wait()).not_started
    assert not (await node.adopt_or_start(lab.spec("e"))).waits


async def test_one_that_has_begun_meanwhile_says_when(lab: Lab) -> None:
    """A node comes back after its turn: what it waited in line is not taken for its own time."""
    node = await lab.node()
    first = await node.adopt_or_start(lab.spec("a"))
    wanted = lab.spec("b")
    await node.adopt_or_start(wanted)
    await asyncio.sleep(0.5)
    lab.let_go("a")
    end = await first.wait()
    await lab.began("b")

    run = await (await lab.node()).adopt_or_start(wanted)

    assert (run.adopted, run.waits) == (True, False)
    began = await run.begun(0.0, leave=True)
    assert began is not None
    assert began >= end.started + 0.4


async def test_a_lane_has_the_seats_of_its_newest_run(lab: Lab) -> None:
    """A node comes back with more slots than before, or with fewer."""
    node = await lab.node()
    for name in ("a", "b"):
        await node.adopt_or_start(lab.spec(name))
    more = [await node.adopt_or_start(lab.spec(name, seats=3)) for name in ("c", "d")]
    lab.let_go("a")
    assert [await lab.began(name) for name in ("b", "c", "d")]
    assert len({lab.seat(name) for name in ("b", "c", "d")}) == 3

    fewer = await node.adopt_or_start(lab.spec("e", seats=1))
    lab.let_go("b", "c")
    await more[0].wait()
    assert fewer.waits
    assert lab.seat("e") == ""
    lab.let_go("d", "e")
    assert (await fewer.wait()).code == 0


@pytest.mark.parametrize("lab", ["process"], indirect=True)
async def test_text_that_is_none_takes_its_turn_as_well(lab: Lab) -> None:
    """Arguments and variables are bytes to the system."""
    node = await lab.node()
    await node.adopt_or_start(lab.spec("a"))
    odd = msgspec.structs.replace(lab.spec("b"), env={"ODD": "j\udcf6rg"})

    run = await node.adopt_or_start(odd)

    assert run.waits
    lab.let_go("a", "b")
    assert (await run.wait()).code == 0


@pytest.mark.parametrize("lab", ["process"], indirect=True)
async def test_a_killed_shepherd_has_begun_nothing_that_waited(lab: Lab) -> None:
    """Its line goes with it: who waited is told so, and may be started anew."""
    node = await lab.node()
    first = await node.adopt_or_start(lab.spec("a"))
    wanted = lab.spec("b")
    second = await node.adopt_or_start(wanted)
    os.kill(int((lab.state / "shepherd.pid").read_text()), signal.SIGKILL)

    with pytest.raises(RuntimeUnavailable):
        await second.begun(20.0, leave=False)

    assert (await first.wait()).lost
    again = await node.adopt_or_start(wanted)
    assert (again.adopted, again.waits) == (False, False)
    assert await lab.began("b") == "seat 0\n"


@pytest.mark.parametrize("lab", ["process"], indirect=True)
async def test_a_host_without_room_is_tried_again_in_turn(lab: Lab) -> None:
    """What cannot be begun for now keeps its place and its seat; it begins once there is room."""
    node = await lab.node()
    first = await node.adopt_or_start(lab.spec("a"))
    second = await node.adopt_or_start(lab.spec("b"))
    third = await node.adopt_or_start(lab.spec("c"))
    shepherd = int((lab.state / "shepherd.pid").read_text())
    soft, hard = resource.prlimit(shepherd, resource.RLIMIT_NOFILE)
    resource.prlimit(shepherd, resource.RLIMIT_NOFILE, (3, hard))  # not one descriptor more
    lab.let_go("a")
    assert (await first.wait()).code == 0
    await asyncio.sleep(0.3)
    refused = lab.seat("b")
    resource.prlimit(shepherd, resource.RLIMIT_NOFILE, (soft, hard))

    assert refused == ""
    assert await lab.began("b") == "seat 0\n"
    assert lab.seat("c") == ""
    lab.let_go("b", "c")
    assert [(await run.wait()).code for run in (second, third)] == [0, 0]
