"""What `launch: resident` promises of its programs, whatever they say, in every runtime."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from contract.laboratory import KINDS
from contract.residents import READY, Lab, act, ask, resident_lab, sent, task, until

from scalebox_actors.errors import SpecRejected
from scalebox_actors.message import Message
from scalebox_actors.records import Cause
from scalebox_actors.topology.model import Keep, Module

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(params=KINDS)
async def lab(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Lab]:
    """Return a host with the runtime in question; nothing may be left on it afterwards."""
    async with resident_lab(request, tmp_path) as made:
        yield made


async def test_answers_are_outcomes(lab: Lab) -> None:
    """What a program answers is what became of the run: code, text, messages."""
    launcher = lab.launcher()
    fine, failed, env = await ask(launcher, "hello", "exit 75", "env")

    assert (fine.exit_code, sent(fine)) == (0, ["hello"])
    assert (failed.exit_code, failed.cause, failed.detail) == (75, Cause.EXIT, "said so")
    assert failed.stdout.text == "line\n"
    assert sent(env) == ["m 0 none"]
    assert 0 < fine.started <= fine.finished


async def test_one_program_answers_many(lab: Lab) -> None:
    """All messages of a slot go to one program; with several slots there are so many programs."""
    slowly = act("""sleep 0.3; answer ',"sink":[{"body":"'"$life"'"}]'""")
    one, two = lab.launcher(), lab.launcher(slowly, slots=2)
    single = await ask(one, *["life"] * 5)
    double = await ask(two, *["raw act"] * 30)

    assert len({sent(outcome)[0] for outcome in single}) == 1
    assert len({sent(outcome)[0] for outcome in double}) == 2


async def test_room_is_what_the_program_says(lab: Lab) -> None:
    """A program that takes several messages at once makes so much room in every slot."""
    launcher = lab.launcher(READY, slots=2)
    rooms: list[int] = []
    launcher.watch_room(rooms.append)
    await ask(launcher, "a")

    assert rooms == [8]
    assert launcher.states == {"ON": 1, "OFF": 1}


async def test_a_late_ready_is_heard(lab: Lab) -> None:
    """A program that takes long to begin is given one message, and as many as it says later."""
    launcher = lab.launcher(f"sleep 1; {READY}")
    outcomes = await ask(launcher, "a", "b", "c")

    assert [sent(outcome) for outcome in outcomes] == [["a"], ["b"], ["c"]]
    assert launcher.states == {"ON": 1}


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ('{"module":"nobody","body":"x"}', "sink 1: unknown module"),
        ('{"module":"next"}', "sink 1: needs one of"),
        ('{"body":5}', "sink 1: `body` is neither"),
        ('{"body":"x","headers":{"a":"é"}}', "sink 1: header"),
        ('{"body":"x","colour":"red"}', "unknown field `colour`"),
    ],
)
async def test_unusable_outputs(lab: Lab, answer: str, says: str) -> None:
    """What would spoil a task file spoils an answer: exit code 120, and nothing is sent."""
    launcher = lab.launcher(act(f"""answer ',"sink":[{answer}]'"""))
    (outcome,) = await ask(launcher, "raw act")

    assert (outcome.exit_code, outcome.cause) == (120, Cause.BAD_OUTPUT)
    assert says in outcome.detail
    assert outcome.emissions == ()


AGAIN = "i=0; while [ $i -lt 12 ]; do {}; i=$((i+1)); done; sleep 1000"


@pytest.mark.parametrize(
    ("noise", "code"),
    [
        pytest.param(AGAIN.format("echo no json"), 120, id="garbage"),
        pytest.param(AGAIN.format("answer"), 0, id="twice"),
        pytest.param(AGAIN.format("id=x; answer"), 120, id="unasked"),
        pytest.param(AGAIN.format("""echo '{"beat":"x"}'"""), 120, id="beats-of-nobody"),
        pytest.param(
            "head -c 5000000 /dev/zero | tr '\\0' x; echo; sleep 1000", 120, id="too-long"
        ),
    ],
)
async def test_noise_is_bounded(lab: Lab, noise: str, code: int) -> None:
    """A program that writes what means nothing is ended; what it has not answered is unusable."""
    launcher = lab.launcher(act(noise))
    noisy, after = await ask(launcher, "raw act", "a")

    assert (noisy.exit_code, sent(after)) == (code, ["a"])


async def test_a_malformed_answer_is_of_its_message(lab: Lab) -> None:
    """An answer that cannot be read fails the message that it names, and nothing else."""
    launcher = lab.launcher(act("""answer ',"exit":"x"'""") + READY)
    bad, good = await ask(launcher, "raw act", "a")

    assert (bad.exit_code, bad.cause) == (120, Cause.BAD_OUTPUT)
    assert "exit" in bad.detail
    assert sent(good) == ["a"]


async def test_a_command_that_is_not_there(lab: Lab) -> None:
    """What cannot be executed is the host's fault, and is told in words."""
    module = Module(name="m", image=lab.image, command=("/absent/program",))
    outcomes = await ask(lab.launch(module), "a", "b")

    assert {outcome.cause for outcome in outcomes} == {Cause.NOT_STARTED}
    assert "not found" in outcomes[0].detail


async def test_a_program_that_does_not_get_going(lab: Lab) -> None:
    """Started so often as `keep.restarts` says, then nobody's message is blamed for it."""
    launcher = lab.launcher("echo no model >&2; exit 3", keep=Keep(restarts=1))
    outcomes = await ask(launcher, "a", "b")
    with pytest.raises(SpecRejected, match="no model"):
        await launcher.ready()

    assert {outcome.cause for outcome in outcomes} == {Cause.NOT_STARTED}
    assert outcomes[0].detail == "the program ends at its start with exit code 3: no model"


async def test_a_program_that_gets_going_again(lab: Lab, tmp_path: Path) -> None:
    """Once a program starts, its module is ready; before, it is not."""
    if lab.runtime.work_path:  # what is mended lies outside, where no container can see it
        return
    mended = tmp_path / "mended"
    launcher = lab.launcher(f"[ -e {mended} ] || exit 3; {READY}", keep=Keep(restarts=0))
    (before,) = await ask(launcher, "a")
    mended.touch()
    await launcher.ready()
    (after,) = await ask(launcher, "a")

    assert (before.cause, after.exit_code) == (Cause.NOT_STARTED, 0)


async def test_bodies_of_every_kind(lab: Lab) -> None:
    """Long bodies and members of groups come as files, which are gone with the answer."""
    launcher = lab.launcher(READY)
    long = task(b"\xff" * 200_000)
    member = Message(module="m", id="one", body=b"x")
    joined = msgspec.structs.replace(task("size"), members=(member,))
    answers = await asyncio.gather(launcher.run(joined), launcher.run(long))
    work = next(lab.base.glob("*/work"))

    assert sent(answers[0]) == ["4 batch-tasks.jsonl batch-tasks.txt body headers.json "]
    assert answers[1].exit_code == 0
    await until(lambda: os.listdir(work) == [])  # noqa: PTH208


async def test_a_link_in_place_of_a_folder(lab: Lab, tmp_path: Path) -> None:
    """Whatever a program puts in place of a message's folder, nothing outside is removed."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    launcher = lab.launcher()
    swap = f"raw rm -r $work; ln -s {precious} $work; answer"
    member = Message(module="m", id="one", body=b"x")
    outcome = await launcher.run(msgspec.structs.replace(task(swap), members=(member,)))
    await launcher.close()

    assert outcome.exit_code == 0
    assert (precious / "file").exists()


async def test_unknown_keys_are_told_once(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """Keys that mean nothing are left out of account and told of once in a program's life."""
    launcher = lab.launcher(act("""answer ',"colour":"red"'"""))
    with caplog.at_level(logging.WARNING):
        outcomes = await ask(launcher, *["raw act"] * 3)

    assert {outcome.exit_code for outcome in outcomes} == {0}
    assert [record.msg for record in caplog.records].count("resident_key") == 1
