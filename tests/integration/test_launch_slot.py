"""Launch mode `slot` with real shells: what a message's program sees, does and leaves."""

import asyncio
import io
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from integration.slotlab import KINDS, Lab, processes, slot_lab

from scalebox_actors.errors import SpecRejected
from scalebox_actors.launch.slots import SlotLauncher
from scalebox_actors.records import Cause, Outcome
from scalebox_actors.topology.model import Duration

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

ODD = 'it\'s "x" $(id) `id` \\ \n\t; & | * ~ é \x01\x81\x88 end'


@pytest.fixture(params=KINDS)
async def lab(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Lab]:
    """Each runtime in turn."""
    async with slot_lab(request, tmp_path) as made:
        yield made


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


async def test_each_run_has_its_own_cpu_time(lab: Lab) -> None:
    """What a run used does not count again in the next one; memory is the whole container's."""
    slots = lab.slots('i=0; while [ $i -lt "$1" ]; do i=$((i+1)); done')
    busy, idle = [(await slots.run(lab.task(body))).usage for body in ("200000", "1")]

    assert busy.cpu_seconds is not None
    assert idle.cpu_seconds is not None
    assert busy.cpu_seconds > 0.05 > idle.cpu_seconds >= 0
    assert (busy.memory_peak, busy.io_read_bytes, busy.io_write_bytes) == (None, None, None)


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
async def test_an_image_without_a_shell_is_refused(
    lab: Lab, docker_socket: str, import_layer: Callable[..., str]
) -> None:
    """The module is suspended with a sentence that says what is missing."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("hello"))
    name = import_layer(docker_socket, "sbx/test-empty:1", layer.getvalue())
    module = msgspec.structs.replace(lab.module("x"), image=name)
    slots = SlotLauncher(module, lab.place)
    with pytest.raises(SpecRejected, match="`launch: slot` needs /bin/sh"):
        await slots.run(lab.task())
    await slots.close()
