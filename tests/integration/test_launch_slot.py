"""Launch mode `slot` with real shells: on plain processes and in containers of a real engine."""

import asyncio
import contextlib
import http.client
import io
import socket
import sys
import tarfile
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from scalebox_actors.errors import NotAdmitted, SpecRejected
from scalebox_actors.launch import workdir
from scalebox_actors.launch.environment import Surroundings
from scalebox_actors.launch.fresh import FreshLauncher
from scalebox_actors.launch.slots import SlotLauncher
from scalebox_actors.launch.workplace import Workplace
from scalebox_actors.message import Message
from scalebox_actors.names import Names
from scalebox_actors.node import Node
from scalebox_actors.node import Settings as NodeSettings
from scalebox_actors.ports import Launcher, Runtime, Task
from scalebox_actors.records import Cause, Outcome
from scalebox_actors.runtimes.docker import DockerRuntime
from scalebox_actors.runtimes.oci import OciRuntime
from scalebox_actors.runtimes.oci_images import ImageStore
from scalebox_actors.runtimes.process import ProcessRuntime
from scalebox_actors.spec import Ceiling, Root
from scalebox_actors.testing.memory import MemoryBroker
from scalebox_actors.topology.model import Duration, Keep, Launch, Module, Topology

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

ODD = 'it\'s "x" $(id) `id` \\ \n\t; & | * ~ é \x01\x81\x88 end'


class Lab:
    """A host with one kind of runtime, and launchers on it."""

    def __init__(self, runtime: Runtime, base: Path, image: str) -> None:
        self.runtime, self.image = runtime, image
        self.base = workdir.make_base(base)
        self.topology = f"t{uuid.uuid4().hex[:12]}"
        self._open: list[Launcher] = []
        self._number = 0

    @property
    def place(self) -> Workplace:
        """What a node's launchers share."""
        around = Surroundings(topology=self.topology, node="n1", ip="10.0.0.7")
        hooks = Root(path=str(self.base.parent / "hooks"))
        return Workplace(
            runtime=self.runtime,
            base=self.base,
            surroundings=around,
            modules=("a", "b"),
            ceiling=Ceiling(roots={"hooks": hooks}),
        )

    def module(self, script: str, **fields: Any) -> Module:
        """A module whose program is a shell script."""
        command = ("/bin/sh", "-c", script, "program") if script else ()
        given: dict[str, Any] = {"timeout": Duration(60), "sinks": ("b",), "command": command}
        return Module(name="a", image=self.image, launch=Launch.SLOT, **(given | fields))

    def slots(self, script: str, **fields: Any) -> SlotLauncher:
        """The launcher of such a module; closed at the end of the test."""
        launcher = SlotLauncher(self.module(script, **fields), self.place)
        self._open.append(launcher)
        return launcher

    def hooks(self, **scripts: str) -> dict[str, Any]:
        """What gives a module hooks: in containers where Scalebox looks, else by variables."""
        folder = self.base.parent / "hooks"
        folder.mkdir(exist_ok=True)
        for name, text in scripts.items():
            path = folder / f"{name}.sh"
            path.write_text(f"#!/bin/sh\n{text}\n")
            path.chmod(0o755)
        if self.runtime.work_path:
            return {"command": (), "mounts": ("hooks:.:/app/bin",)}
        env = {f"ACTION_{name.upper()}": str(folder / f"{name}.sh") for name in scripts}
        return {"command": (), "env": env}

    def fresh(self, script: str, **fields: Any) -> FreshLauncher:
        """The same module, launched afresh for every message."""
        return FreshLauncher(self.module(script, **fields), self.place)

    def task(self, body: str | bytes = b"x", **headers: str) -> Task:
        """One task after the other."""
        self._number += 1
        data = body.encode() if isinstance(body, str) else body
        message = Message(module="a", id=f"m{self._number}", body=data, headers=headers)
        return Task(message=message)

    async def left(self) -> list[str]:
        """Containers and folders that are there."""
        strays = await self.runtime.stray({"sbx.topology": self.topology})
        return [*(s.name for s in strays), *(p.name for p in self.base.iterdir())]

    async def close(self) -> None:
        """End what is open; nothing may be left."""
        for launcher in self._open:
            await launcher.close()


@pytest.fixture(params=["process", "docker", "oci"])
async def lab(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Lab]:
    """Each runtime in turn."""
    runtime: Runtime
    if request.param == "process":
        runtime, image = await ProcessRuntime.open(tmp_path / "state"), "none"
    elif request.param == "oci":
        images = request.getfixturevalue("oci_images")
        image = images.all()[0][0].name
        runtime = await OciRuntime.over(images, tmp_path / "state")
    else:
        image = request.getfixturevalue("busybox_image")
        runtime = await DockerRuntime.open()
    made = Lab(runtime, tmp_path / "work", image)
    try:
        yield made
        await made.close()

        assert await made.left() == []
    finally:
        for stray in await runtime.stray({"sbx.topology": made.topology}):
            await runtime.remove(stray.name)
        await runtime.close()


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition of the world outside."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - files and processes send no events
            await asyncio.sleep(0.01)


SHOW = """
printf '%s\\n' "$#" "$1" "$2"
env | grep -v -E '^(SBX_RUN|PWD|OLDPWD|HOSTNAME|SHLVL|_|HOME|WORK_DIR)=' | sort
echo "in: $(cat)"
ls | grep -v ^w
cat body headers.json
ls /proc/self/fd | wc -w
[ "$(pwd)" = "$WORK_DIR" ] && echo here
printf 'b,%s,{"k":"v"}\\n' "one" > sink-tasks.txt
echo err >&2
exit "${FAIL:-0}"
"""


async def test_the_program_sees_what_it_sees_afresh(lab: Lab) -> None:
    """Arguments to the byte, variables, directory, files, outputs and exit code are the same."""
    task = lab.task(ODD, k='a"b', _p="1")
    told = []
    for launcher in (lab.slots(SHOW), lab.fresh(SHOW)):
        outcome = await launcher.run(task)
        await launcher.clear(task)
        told.append((outcome.exit_code, outcome.stdout.text, outcome.stderr, outcome.emissions))

    assert told[0] == told[1]
    assert told[0][1].startswith(f"2\n{ODD}\n")
    assert told[0][0] == 0
    assert told[0][2].text == "err\n"
    assert [e.headers for e in told[0][3]] == [{"k": "v"}]


async def test_exit_codes_are_the_programs_own(lab: Lab) -> None:
    """A code comes back as it is, a signal as 128 and its number."""
    slots = lab.slots('case "$1" in s*) kill -${1#s} $$;; *) exit "$1";; esac')
    codes = [(await slots.run(lab.task(body))).exit_code for body in ("0", "3", "126", "s9", "s11")]

    assert codes == [0, 3, 126, 137, 139]
    assert slots.states == {"ON": 1}


async def test_files_stay_and_interface_files_go(lab: Lab) -> None:
    """The work directory lives as long as the slot; what a run says is cleared before the next."""
    slots = lab.slots(
        'cat mine 2>/dev/null; echo "$1" > mine; ls sink-tasks.txt 2>/dev/null;'
        '[ "$1" = 1 ] && echo x > sink-tasks.txt && mkdir task-exec.json && touch task-exec.json/a;'
        "rm -f body; ln -s /etc/passwd body; true"
    )
    first = await slots.run(lab.task("1"))
    second = await slots.run(lab.task("2"))

    assert first.cause is Cause.BAD_OUTPUT
    assert (second.exit_code, second.stdout.text, second.emissions) == (0, "1\n", ())


async def test_a_link_that_a_program_leaves_is_not_followed(lab: Lab, tmp_path: Path) -> None:
    """What lies under the name of an input file is removed, wherever it points."""
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    slots = lab.slots(f"rm -f body; ln -s {victim} body; ln -s {victim} sink-tasks.txt")
    outcome = await slots.run(lab.task())
    again = await slots.run(lab.task("second"))

    assert outcome.cause is again.cause is Cause.BAD_OUTPUT
    assert victim.read_text() == "untouched"


async def test_a_timeout_ends_all_that_the_message_started(lab: Lab) -> None:
    """The program is told, what it says is kept, and nothing of it survives; the slot goes on."""
    slots = lab.slots(
        'echo "begun $1"; [ "$1" = quick ] && exit 0;'
        "trap 'echo told; exit 5' TERM; setsid sleep 654321 & sleep 654321 & wait",
        timeout=Duration(1.5),
    )
    await slots.run(lab.task("quick"))
    slow = await slots.run(lab.task("slow"))
    gone = not processes("654321")
    quick = await slots.run(lab.task("quick"))

    assert (slow.exit_code, slow.cause) == (124, Cause.TIMEOUT)
    assert slow.stdout.text == "begun slow\ntold\n"
    assert gone
    assert (quick.exit_code, quick.stdout.text) == (0, "begun quick\n")


async def test_a_program_that_ignores_its_end_is_killed(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the grace there is no asking."""
    monkeypatch.setattr("scalebox_actors.launch.agent.STOP_GRACE", 1.0)
    slots = lab.slots("trap '' TERM; while :; do sleep 0.2; done", timeout=Duration(0.5))
    outcome = await slots.run(lab.task())

    assert (outcome.exit_code, outcome.cause) == (124, Cause.TIMEOUT)


def processes(text: str) -> list[str]:
    """The processes of this host whose command line holds a text."""
    found = []
    for place in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            line = (place / "cmdline").read_bytes() if place.name.isdigit() else b""
            if text.encode() in line and b"pytest" not in line and b"slot_agent" not in line:
                found.append(line.decode("utf-8", "replace"))
    return found


async def test_what_a_run_leaves_running_is_ended_before_the_next(lab: Lab) -> None:
    """A daemon that left its session and keeps its outputs is gone when the run has ended."""
    slots = lab.slots(
        "(setsid sh -c 'while :; do echo noise; sleep 0.01; done' shout-765432 &);"
        "setsid sleep 765432 & sleep 0.1; echo mine"
    )
    first = await slots.run(lab.task())
    left = processes("765432")
    second = await slots.run(lab.task())

    assert left == []
    assert first.exit_code == second.exit_code == 0
    assert second.stdout.text.count("mine") == 1


async def test_a_flood_of_output_is_bounded(lab: Lab) -> None:
    """Of what is printed a bounded part is kept, all of it is counted, and nobody is blocked."""
    slots = lab.slots(
        "head -c 20000000 /dev/zero | tr '\\0' x; echo end; head -c 3000000 /dev/zero >&2",
        output_text_size=1000,
    )
    outcome = await slots.run(lab.task())

    assert outcome.exit_code == 0
    assert outcome.stdout.text.endswith("xxx\nend\n".replace("\n", "", 1))
    assert (outcome.stdout.size, outcome.stdout.cut) == (20_000_004, True)
    assert outcome.stderr.size == 3_000_000
    assert len(outcome.stdout.text) <= 1000


async def test_a_program_that_answers_for_itself_is_not_believed(lab: Lab) -> None:
    """The agent's pipes have no names any more, and a run has one that it does not know."""
    slots = lab.slots(
        'door=$(ls -d /sbx "$WORK_DIR/../door" 2>/dev/null | head -1);'
        'ls "$door"; for p in out in; do echo "m1 0" > "$door/$p"; done 2>/dev/null;'
        "exit 7"
    )
    outcome = await slots.run(lab.task())

    assert outcome.exit_code == 7
    assert outcome.stdout.text.split() == ["slot_agent.sh", "task"]


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


async def test_a_program_that_is_not_there_suspends(lab: Lab) -> None:
    """As with a fresh container: the host's fault, with the program's name."""
    slots = lab.slots("", command=("/absent/program",))
    with pytest.raises(SpecRejected, match="/absent/program: not found"):
        await slots.run(lab.task())


@pytest.mark.parametrize("sinks", [("b",), (), ("b", "c")])
async def test_without_a_run_hook_messages_are_passed_on(lab: Lab, sinks: tuple[str, ...]) -> None:
    """No program at all is success: the body goes to the one sink there is, if there is one."""
    outcome = await lab.slots("", sinks=sinks).run(lab.task(b"\xff\x00raw"))
    expected = [b"\xff\x00raw"] if len(sinks) == 1 else []

    assert outcome.exit_code == 0
    assert [e.body for e in outcome.emissions] == expected


async def test_hooks_that_are_not_there_or_cannot_run(lab: Lab) -> None:
    """A variable that points to nothing is 127, a file that is not executable 126."""
    codes = []
    for path in ("/absent/run.sh", "/etc/passwd"):
        outcome = await lab.slots("", env={"ACTION_RUN": path}).run(lab.task())
        codes.append((outcome.exit_code, outcome.cause))

    assert codes == [(127, Cause.EXIT), (126, Cause.EXIT)]


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


async def test_removable_files_go_after_the_commit(lab: Lab) -> None:
    """`removed-files.txt` names files that are deleted once the task's end is stored."""
    slots = lab.slots(
        'echo data > big; echo keep > small; echo "$WORK_DIR/big" > removed-files.txt; ls'
    )
    task = lab.task()
    outcome = await slots.run(task)
    (work,) = lab.base.glob("*/1")
    before = (work / "big").exists()
    await slots.clear(task, outcome)

    assert before
    assert not (work / "big").exists()
    assert (work / "small").exists()


async def test_slots_run_side_by_side(lab: Lab) -> None:
    """As many at once as there are slots, each with a number and a directory of its own."""
    slots = lab.slots('echo "$SLOT_SEQ $WORK_DIR"; touch here; sleep 0.3; echo "$TASK_ID"', slots=2)
    tasks = [msgspec.structs.replace(lab.task(), slot=n % 2) for n in range(4)]
    outcomes: list[Outcome] = await asyncio.gather(*(slots.run(task) for task in tasks))
    seen = {outcome.stdout.text.split()[0] for outcome in outcomes}

    assert seen == {"0", "1"}
    assert sorted(o.stdout.text.split()[2] for o in outcomes) == ["m1", "m2", "m3", "m4"]


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


async def test_an_atomic_batch_runs_once(lab: Lab) -> None:
    """The first task's arguments, all tasks in a file, one exit code."""
    slots = lab.slots('echo "$1"; cat batch-tasks.txt; echo out > sink-tasks.txt')
    first, second = lab.task("one"), lab.task("two,x", k="v")
    task = msgspec.structs.replace(first, members=(first.message, second.message))
    outcome = await slots.run(task)
    alone = await slots.run(lab.task("three"))

    assert outcome.stdout.text == 'one\nm1,one,{}\nm2,two\\,x,{"k":"v"}\n'
    assert len(outcome.emissions) == 1
    assert alone.stdout.text == "three\n"
    assert "batch-tasks.txt" in alone.stderr.text


@pytest.mark.parametrize("lab", ["docker"], indirect=True)
async def test_an_image_without_a_shell_is_refused(lab: Lab, docker_socket: str) -> None:
    """The module is suspended with a sentence that says what is missing."""
    name = import_image(docker_socket, "sbx/test-empty", {"hello": b"not a shell"})
    module = msgspec.structs.replace(lab.module("x"), image=name)
    slots = SlotLauncher(module, lab.place)
    with pytest.raises(SpecRejected, match="`launch: slot` needs /bin/sh"):
        await slots.run(lab.task())
    await slots.close()


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


def import_image(docker_socket: str, name: str, files: dict[str, bytes]) -> str:
    """Give the engine an image of a few files, and return its name."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for path, data in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    connection = http.client.HTTPConnection("engine", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(docker_socket)
    connection.request("POST", f"/images/create?fromSrc=-&repo={name}&tag=1", layer.getvalue())
    answer = connection.getresponse()
    answer.read()
    connection.close()
    assert answer.status == 200
    return f"{name}:1"
