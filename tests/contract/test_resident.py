"""What `launch: resident` promises of its programs, whatever they do, in every runtime."""

import asyncio
import logging
import os
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from scalebox_actors.errors import NotAdmitted, SpecRejected
from scalebox_actors.launch import workdir
from scalebox_actors.launch.environment import Surroundings
from scalebox_actors.launch.resident import ResidentLauncher
from scalebox_actors.launch.workplace import Workplace
from scalebox_actors.message import Message
from scalebox_actors.ports import Runtime, Task
from scalebox_actors.records import Cause, Outcome
from scalebox_actors.runtimes.docker import DockerRuntime
from scalebox_actors.runtimes.oci import OciRuntime
from scalebox_actors.runtimes.process import ProcessRuntime
from scalebox_actors.topology.model import Duration, Keep, Module

pytestmark = pytest.mark.timeout(90)

PROGRAM = r"""
life=$(cat /proc/sys/kernel/random/uuid)
answer() { printf '{"id":"%s"%s}\n' "$id" "$1"; }
eval "$START"
while IFS= read -r line; do
  case $line in '{"ping":'*) line=${line#*:}; echo "{\"pong\":${line%\}}}"; continue;; esac
  id=${line#*'"id":"'}; id=${id%%'"'*}
  body=${line#*'"body":"'}; body=${body%%'"'*}
  work=${line#*'"work":"'}; work=${work%%'"'*}
  case $body in
    life) answer ",\"sink\":[{\"body\":\"$life\"}]";;
    size) answer ",\"sink\":[{\"body\":\"$(wc -c <"$work/body") $(ls "$work" | tr '\n' ' ')\"}]";;
    env) answer ",\"sink\":[{\"body\":\"$MODULE_NAME $SLOT_SEQ ${TASK_ID-none}\"}]";;
    'exit '*) answer ",\"exit\":${body#exit },\"detail\":\"said so\",\"log\":\"line\\n\"";;
    'die '*) echo "dying of $id" >&2; exit "${body#die }";;
    'raw '*) eval "${body#raw }";;
    hang) sleep 1000;;
    *) answer ",\"sink\":[{\"body\":\"$body\"}]";;
  esac
done
"""


class Lab:
    """A host with one kind of runtime, on which modules with a resident program are launched."""

    def __init__(self, runtime: Runtime, place: Path, image: str) -> None:
        self.topology = f"t{uuid.uuid4().hex[:12]}"
        self.runtime, self.image = runtime, image
        self.base = workdir.make_base(place / "work")
        self._open: list[ResidentLauncher] = []

    def launcher(
        self, start: str = "", *, slots: int = 1, timeout: float = 60, keep: Keep | None = None
    ) -> ResidentLauncher:
        """Return a launcher of the program, which executes `start` first."""
        module = Module(
            name="m",
            image=self.image,
            command=("/bin/sh", "-c", PROGRAM),
            env={"START": start},
            slots=slots,
            timeout=Duration(timeout),
            keep=keep or Keep(),
        )
        return self.launch(module)

    def launch(self, module: Module) -> ResidentLauncher:
        """Return the launcher of a module."""
        place = Workplace(
            runtime=self.runtime,
            base=self.base,
            surroundings=Surroundings(topology=self.topology, node="n1"),
            modules=("m", "next"),
        )
        launcher = ResidentLauncher(module, place)
        self._open.append(launcher)
        return launcher

    async def names(self) -> list[str]:
        """Return the containers that there are."""
        return [stray.name for stray in await self.runtime.stray({"sbx.topology": self.topology})]

    async def close(self) -> None:
        """End all programs and see that nothing of them is left."""
        for launcher in self._open:
            await launcher.close()

        assert await self.names() == []
        assert list(self.base.iterdir()) == []
        await self.runtime.close()


@pytest.fixture(
    params=[
        "process",
        pytest.param("docker", marks=pytest.mark.integration),
        pytest.param("oci", marks=pytest.mark.integration),
    ]
)
async def lab(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Lab]:
    """Return a host with the runtime in question; nothing may be left on it afterwards."""
    runtime: Runtime
    image = "img"
    if request.param == "docker":
        image = request.getfixturevalue("busybox_image")
        runtime = await DockerRuntime.open()
    elif request.param == "oci":
        images = request.getfixturevalue("oci_images")
        image = images.all()[0][0].name
        runtime = await OciRuntime.over(images, tmp_path / "state")
    else:
        runtime = await ProcessRuntime.open(tmp_path / "state")
    made = Lab(runtime, tmp_path, image)
    yield made
    await made.close()


def task(body: str | bytes, name: str = "") -> Task:
    """Return a task with a body."""
    data = body if isinstance(body, bytes) else body.encode()
    return Task(message=Message(module="m", id=name or uuid.uuid4().hex, body=data))


async def ask(launcher: ResidentLauncher, *bodies: str) -> list[Outcome]:
    """Run a task for every body, at once."""
    return await asyncio.gather(*(launcher.run(task(body)) for body in bodies))


def sent(outcome: Outcome) -> list[str]:
    """Return the bodies that a run emits."""
    return [emission.body.decode() for emission in outcome.emissions]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition of the world outside."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - programs that stay send no events
            await asyncio.sleep(0.01)


def act(does: str) -> str:
    """Return a function of the program; what a body says itself may hold no quotes."""
    return f"act() {{ {does}; }}\n"


READY = """echo '{"ready":true,"in_flight":4}'"""
BEATING = """echo '{"ready":true,"heartbeat":1}'"""


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


async def test_who_dies_alone_is_to_blame(lab: Lab) -> None:
    """A message whose program ends while it has nothing else gets its exit code and its words."""
    launcher = lab.launcher()
    died, after = await ask(launcher, "die 7", "life")

    assert (died.exit_code, died.cause) == (7, Cause.EXIT)
    assert "dying of" in died.stderr.text
    assert after.exit_code == 0


async def test_neighbours_are_not_to_blame(lab: Lab) -> None:
    """Of several messages in a program that ends, the one that ends it again alone is found."""
    launcher = lab.launcher(READY)
    first, poison, last = await ask(launcher, "a", "die 9", "b")

    assert (sent(first), poison.exit_code, sent(last)) == (["a"], 9, ["b"])


async def test_poison_that_comes_again_is_alone(lab: Lab) -> None:
    """A task that has ended a program gets one for itself, so its retries cost nobody a run."""
    launcher = lab.launcher(READY)
    bad = task("die 3")
    await launcher.run(bad)
    again, *others = await asyncio.gather(
        launcher.run(bad), *(launcher.run(task("life")) for _ in range(3))
    )

    assert again.exit_code == 3
    assert {outcome.exit_code for outcome in others} == {0}


async def test_a_timeout_ends_the_program_and_blames_one(lab: Lab) -> None:
    """A message that takes too long gets 124; what waited behind it in the program runs again."""
    launcher = lab.launcher(READY, timeout=2)
    hung, behind = await ask(launcher, "hang", "a")

    assert (hung.exit_code, hung.cause) == (124, Cause.TIMEOUT)
    assert sent(behind) == ["a"]


async def test_a_program_that_closes_its_pipes(lab: Lab) -> None:
    """A program that says nothing any more is found out by the time limit."""
    launcher = lab.launcher(timeout=2)
    (outcome,) = await ask(launcher, "raw exec <&- >&-; sleep 1000")
    (after,) = await ask(launcher, "a")

    assert (outcome.exit_code, sent(after)) == (124, ["a"])


async def test_a_promised_beat_is_asked_for(lab: Lab) -> None:
    """A program that promised beats and gives none is ended long before the time limit."""
    beats = act("""for i in 1 2 3 4; do sleep 1; printf '{"beat":"%s"}\\n' "$id"; done; answer""")
    launcher = lab.launcher(beats + BEATING)
    beating, hung = await ask(launcher, "raw act", "hang")

    assert beating.exit_code == 0
    assert (hung.exit_code, hung.detail) == (124, "ended after 3 s without a beat")


async def test_pings_keep_a_program_at_rest(lab: Lab) -> None:
    """A program that answers pings lives on; it has nothing to do for longer than it may hush."""
    launcher = lab.launcher(BEATING)
    (before,) = await ask(launcher, "life")
    await asyncio.sleep(4)
    (after,) = await ask(launcher, "life")

    assert sent(before) == sent(after)


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


async def test_an_end_without_an_answer(lab: Lab) -> None:
    """A program may end with 0 between messages; with one in it, that is unusable, not success."""
    launcher = lab.launcher()
    polite, rude = await ask(launcher, "raw answer; exit 0", "die 0")
    (after,) = await ask(launcher, "a")

    assert polite.exit_code == 0
    assert (rude.exit_code, rude.cause) == (120, Cause.BAD_OUTPUT)
    assert after.exit_code == 0


async def test_recycled_after_so_many_runs(lab: Lab) -> None:
    """With `keep.runs` a program gets so many messages and another takes its place."""
    launcher = lab.launcher(READY, keep=Keep(runs=3))
    lives = [sent(outcome)[0] for outcome in await ask(launcher, *["life"] * 7)]

    assert sorted(lives.count(life) for life in set(lives)) == [1, 3, 3]


async def test_recycled_by_age_and_idleness(lab: Lab) -> None:
    """A program that is old, or that nobody needs, ends; the next message starts another."""
    old = lab.launcher(keep=Keep(age=Duration(1)))
    idle = lab.launcher(keep=Keep(idle=Duration(1)))
    await asyncio.gather(ask(old, "a"), ask(idle, "a"))
    await until(lambda: old.states == idle.states == {"OFF": 1})
    (again,), (too,) = await asyncio.gather(ask(old, "a"), ask(idle, "b"))

    assert (sent(again), sent(too)) == (["a"], ["b"])


async def test_a_container_that_vanishes(lab: Lab) -> None:
    """Nobody is to blame for a container that was ended from outside: its messages run again."""
    launcher = lab.launcher(READY)
    await ask(launcher, "a")
    running = asyncio.gather(*(launcher.run(task("raw sleep 1; answer")) for _ in range(3)))
    await until(lambda: launcher.states == {"ON": 1})
    (name,) = await lab.names()
    await lab.runtime.remove(name)

    assert [outcome.exit_code for outcome in await running] == [0, 0, 0]


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


async def test_stop_ends_one_and_repeats_the_others(lab: Lab) -> None:
    """A run that a person ends is over; what its program had besides runs again."""
    launcher = lab.launcher(READY)
    doomed = task("hang")
    running = asyncio.create_task(launcher.run(doomed))
    beside = asyncio.create_task(launcher.run(task("a")))
    await until(lambda: launcher.states == {"ON": 1})
    await asyncio.sleep(0.1)
    await launcher.stop(doomed)

    assert (await running).exit_code == 137
    assert sent(await beside) == ["a"]


async def test_stop_of_one_that_waits(lab: Lab) -> None:
    """A message that no program has yet is not given to any once a person has ended it."""
    launcher = lab.launcher()
    first = asyncio.create_task(launcher.run(task("raw sleep 1; answer")))
    waiting = task("a")
    second = asyncio.create_task(launcher.run(waiting))
    await asyncio.sleep(0)
    await launcher.stop(waiting)

    assert (await second).exit_code == 137
    assert (await first).exit_code == 0


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


async def test_when_the_node_ends(lab: Lab) -> None:
    """An answer that still comes counts; the rest is not admitted, once its program has ended."""
    launcher = lab.launcher(slots=2)
    bodies = ("raw sleep 0.5; answer", "hang", "waits")
    runs = [asyncio.create_task(launcher.run(task(body))) for body in bodies]
    left: list[list[str]] = []

    async def look() -> None:
        await asyncio.wait([runs[1]])
        left.append(await lab.names())

    looking = asyncio.create_task(look())
    await until(lambda: launcher.states == {"ON": 2})
    await launcher.close()
    answered, *others = await asyncio.gather(*runs, return_exceptions=True)
    await looking

    assert isinstance(answered, Outcome)
    assert answered.exit_code == 0
    assert [type(other) for other in others] == [NotAdmitted, NotAdmitted]
    assert left == [[]]


async def test_what_may_still_be_at_work_is_not_given_back(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a message whose program nobody saw ending, nothing is said when the node ends."""
    monkeypatch.setattr("scalebox_actors.launch.resident.STOP_GRACE", 0.0)
    launcher = lab.launcher()
    run = asyncio.create_task(launcher.run(task("hang")))
    await until(lambda: launcher.states == {"ON": 1})
    await launcher.close()
    _, pending = await asyncio.wait([run], timeout=0.1)
    run.cancel()

    assert pending == {run}


async def test_unknown_keys_are_told_once(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """Keys that mean nothing are left out of account and told of once in a program's life."""
    launcher = lab.launcher(act("""answer ',"colour":"red"'"""))
    with caplog.at_level(logging.WARNING):
        outcomes = await ask(launcher, *["raw act"] * 3)

    assert {outcome.exit_code for outcome in outcomes} == {0}
    assert [record.msg for record in caplog.records].count("resident_key") == 1
