"""What every runtime promises: the double, plain processes and a real engine alike."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from contract.laboratory import Laboratory

from scalebox_actors.errors import ImageMissing
from scalebox_actors.limits import CONTAINER_LOG_BYTES
from scalebox_actors.ports import Runtime
from scalebox_actors.runtimes.docker import DockerRuntime
from scalebox_actors.runtimes.oci import OciRuntime
from scalebox_actors.runtimes.oci_images import ImageStore
from scalebox_actors.runtimes.process import ProcessRuntime
from scalebox_actors.spec import ContainerSpec
from scalebox_actors.testing.scripted import Host, ScriptedRuntime, not_started

pytestmark = pytest.mark.timeout(60)


class Lab(Laboratory):
    """A host whose runs do what a word says."""

    def __init__(
        self, kind: str, place: Path, image: str, images: ImageStore | None = None
    ) -> None:
        super().__init__(kind, place, Host(program=self._program, images={image, ""}))
        self._image, self._images = image, images

    async def runtime(self) -> Runtime:
        """Open a runtime of this kind."""
        if self.kind == "scripted":
            return ScriptedRuntime(self.host)
        if self.kind == "process":
            return await ProcessRuntime.open(self.place / "state")
        if self._images is not None:
            return await OciRuntime.over(self._images, self.place / "state")
        return await DockerRuntime.open()

    def spec(self, *words: str, name: str = "one", attempt: int = 1) -> ContainerSpec:
        """Return a container that does what `words` say."""
        work = self.place / f"{name}.{attempt}"
        work.mkdir(exist_ok=True)
        work.chmod(0o777)
        return ContainerSpec(
            name=f"sbx-{self.topology}.m.{name}",
            image=self._image,
            command=words if self.kind == "scripted" else self._argv(*words),
            env={"GREETING": "hello"},
            labels={"sbx.topology": self.topology, "sbx.attempt": str(attempt)},
            work=str(work),
            log_bytes=CONTAINER_LOG_BYTES,
        )

    def _argv(self, word: str, text: str = "") -> tuple[str, ...]:
        script = {
            "exit": f"exit {text}",
            "signal": f"kill -{text} $$",
            "sleep": "sleep 300",
            "stubborn": "trap '' TERM; touch ready; while :; do sleep 1; done",
            "write": f'printf "$GREETING" > {text}',
            "print": f"i=0; while [ $i -lt {text} ]; do echo line $i; i=$((i+1)); done; echo e >&2",
        }
        match word:
            case "absent":
                return ("/absent/program",)
            case "unexecutable":
                return ("/etc/passwd",)
        return ("/bin/sh", "-c", script[word])

    async def _program(self, spec: ContainerSpec, work: Path) -> int:
        name = spec.name
        word, text = (*spec.command, "")[:2]
        match word:
            case "exit":
                return int(text)
            case "signal":
                return 128 + int(text)
            case "absent":
                raise not_started(127)
            case "unexecutable":
                raise not_started(126)
            case "write":
                await asyncio.to_thread((work / text).write_text, spec.env["GREETING"])
            case "print":
                lines = b"".join(b"line %d\n" % i for i in range(int(text)))
                self.host.prints(name, stdout=lines, stderr=b"e\n")
            case _:
                await asyncio.Event().wait()
        return 0


@pytest.fixture(
    params=[
        "scripted",
        "process",
        pytest.param("docker", marks=pytest.mark.integration),
        pytest.param("oci", marks=pytest.mark.integration),
    ]
)
async def lab(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Lab]:
    """Return a host with the runtime in question."""
    image, images = "img", None
    if request.param == "docker":
        image = request.getfixturevalue("busybox_image")
    elif request.param == "oci":
        images = request.getfixturevalue("oci_images")
        image = images.all()[0][0].name
    made = Lab(request.param, tmp_path, image, images)
    yield made
    await made.clean()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition of the world outside."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - files and processes send no events
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("exit", "0"), 0),
        (("exit", "1"), 1),
        (("exit", "126"), 126),
        (("exit", "127"), 127),
        (("signal", "9"), 137),
        (("signal", "15"), 143),
    ],
)
async def test_exit_codes(lab: Lab, words: tuple[str, ...], code: int) -> None:
    """A run's code is the program's, or 128 and the number of the signal that ended it."""
    runtime = await lab.node()

    run = await runtime.adopt_or_start(lab.spec(*words))
    end = await run.wait()

    assert (code, False, False, False) == (end.code, end.lost, end.not_started, end.out_of_memory)
    assert end.started <= end.finished


@pytest.mark.parametrize(("word", "code"), [("absent", 127), ("unexecutable", 126)])
async def test_not_started(lab: Lab, word: str, code: int) -> None:
    """A program that cannot be executed is told from one that ends with the same code."""
    runtime = await lab.node()

    end = await (await runtime.adopt_or_start(lab.spec(word))).wait()

    assert (code, True) == (end.code, end.not_started)
    assert end.detail


async def test_a_program_writes_into_its_work_directory(lab: Lab) -> None:
    """The work directory is the current one, and the environment is the spec's."""
    runtime = await lab.node()
    spec = lab.spec("write", "result")

    await (await runtime.adopt_or_start(spec)).wait()

    assert await asyncio.to_thread((Path(spec.work) / "result").read_text) == "hello"


async def test_asking_again_adopts(lab: Lab) -> None:
    """The same spec gives the same run, while it runs and when it has ended."""
    runtime = await lab.node()
    spec = lab.spec("sleep")

    first = await runtime.adopt_or_start(spec)
    second = await runtime.adopt_or_start(spec)
    await first.stop(0.1)
    ends = [await first.wait(), await second.wait()]
    third = await runtime.adopt_or_start(spec)

    assert [first.adopted, second.adopted, third.adopted] == [False, True, True]
    assert ends[0] == ends[1]
    assert (await third.wait()).code == ends[0].code


async def test_six_at_once_start_one(lab: Lab) -> None:
    """The name is the lock: of callers at the same moment one starts, the others adopt."""
    nodes = [await lab.node() for _ in range(2)]
    spec = lab.spec("sleep")

    runs = await asyncio.gather(*(nodes[i % 2].adopt_or_start(spec) for i in range(6)))

    assert sorted(run.adopted for run in runs) == [False] + [True] * 5
    assert len(await nodes[0].stray({"sbx.topology": lab.topology})) == 1


async def test_a_running_run_survives_its_node(lab: Lab) -> None:
    """A node that is started again adopts what runs, and learns how it ends."""
    node = await lab.node()
    spec = lab.spec("sleep")
    await node.adopt_or_start(spec)
    await lab.kill_node(node)

    again = await lab.node()
    run = await again.adopt_or_start(spec)
    await run.stop(0.1)

    assert run.adopted
    assert (await run.wait()).code in (137, 143)


async def test_an_end_in_the_nodes_absence_is_kept(lab: Lab) -> None:
    """A run that ends while there is no node is adopted with its code, files and log."""
    node = await lab.node()
    spec = lab.spec("print", "3")
    await node.adopt_or_start(spec)
    await lab.kill_node(node)

    again = await lab.node()
    run = await again.find(spec.name)
    assert run is not None
    end, logs = await run.wait(), await run.logs(1000)

    assert (end.code, end.lost) == (0, False)
    assert (logs.stdout, logs.stderr) == (b"line 0\nline 1\nline 2\n", b"e\n")


@pytest.mark.parametrize("word", ["sleep", "exit"])
async def test_an_earlier_attempt_gives_way(lab: Lab, word: str) -> None:
    """A run of an earlier attempt is removed, living or not, and the new one started."""
    runtime = await lab.node()
    old = await runtime.adopt_or_start(lab.spec(word, "7"))
    if word == "exit":
        await old.wait()

    new = await runtime.adopt_or_start(lab.spec("exit", "3", attempt=2))

    assert not new.adopted
    assert (await new.wait()).code == 3
    assert len(await runtime.stray({"sbx.topology": lab.topology})) == 1


async def test_a_later_attempt_is_not_undone(lab: Lab) -> None:
    """A caller that is late with an old attempt of the same work gets the newer run."""
    runtime = await lab.node()
    newer = lab.spec("sleep", attempt=2)
    await runtime.adopt_or_start(newer)

    labels = {**newer.labels, "sbx.attempt": "1"}
    late = await runtime.adopt_or_start(msgspec.structs.replace(newer, labels=labels))

    assert late.adopted
    assert (await runtime.stray({"sbx.topology": lab.topology}))[0].labels["sbx.attempt"] == "2"


async def test_another_work_directory_is_another_run(lab: Lab) -> None:
    """A run whose outputs lie elsewhere is nobody's to adopt: its outputs would be lost."""
    runtime = await lab.node()
    await runtime.adopt_or_start(lab.spec("sleep"))
    elsewhere = lab.spec("exit", "0", name="two").work

    spec = msgspec.structs.replace(lab.spec("exit", "4"), work=elsewhere)
    run = await runtime.adopt_or_start(spec)

    assert not run.adopted
    assert (await run.wait()).code == 4


async def test_stop_ends_a_stubborn_program(lab: Lab) -> None:
    """A program that ignores the terminate signal is killed after its grace."""
    if lab.kind == "scripted":
        lab.host.ignores_terminate = True
    runtime = await lab.node()
    spec = lab.spec("stubborn")
    run = await runtime.adopt_or_start(spec)
    if lab.kind != "scripted":
        await until((Path(spec.work) / "ready").exists)

    await run.stop(1.0)

    assert (await run.wait()).code == 137


async def test_stop_ends_politely(lab: Lab) -> None:
    """A program that does not ignore the terminate signal is ended by it, well before a kill."""
    runtime = await lab.node()
    run = await runtime.adopt_or_start(lab.spec("sleep"))

    async with asyncio.timeout(20):
        await run.stop(50.0)
        end = await run.wait()

    assert (end.code, end.lost) == (143, False)


async def test_stopping_an_ended_run_changes_nothing(lab: Lab) -> None:
    """Stop may come too late."""
    runtime = await lab.node()
    run = await runtime.adopt_or_start(lab.spec("exit", "5"))
    await run.wait()

    await run.stop(1.0)

    assert (await run.wait()).code == 5


async def test_logs_are_the_ends(lab: Lab) -> None:
    """Of a long output the last bytes are returned, and how much there was."""
    runtime = await lab.node()
    run = await runtime.adopt_or_start(lab.spec("print", "2000"))
    await run.wait()

    logs = await run.logs(20)

    assert (b"ne 1998\nline 1999\n"[-20:], 20) == (logs.stdout[-18:], len(logs.stdout))
    assert sum(len(f"line {i}\n") for i in range(2000)) == logs.stdout_size
    assert (logs.stderr, logs.stderr_size) == (b"e\n", 2)


async def test_remove_ends_and_forgets(lab: Lab) -> None:
    """A living run can be removed; then there is none, and removing it again is fine."""
    runtime = await lab.node()
    spec = lab.spec("sleep")
    await runtime.adopt_or_start(spec)

    await runtime.remove(spec.name)
    await runtime.remove(spec.name)

    assert await runtime.find(spec.name) is None
    assert await runtime.stray({"sbx.topology": lab.topology}) == []


async def test_stray_tells_running_from_ended(lab: Lab) -> None:
    """The reaper sees which containers run, and since when the others do not."""
    runtime = await lab.node()
    running, ended = lab.spec("sleep", name="running"), lab.spec("exit", "0", name="ended")
    await runtime.adopt_or_start(running)
    end = await (await runtime.adopt_or_start(ended)).wait()

    found = {stray.name: stray for stray in await runtime.stray({"sbx.topology": lab.topology})}

    assert {running.name, ended.name} == set(found)
    assert (found[running.name].running, found[running.name].finished) == (True, 0.0)
    assert not found[ended.name].running
    assert abs(found[ended.name].finished - end.finished) < 1.0
    assert await runtime.stray({"sbx.topology": lab.topology, "sbx.attempt": "9"}) == []


async def test_eight_at_once(lab: Lab) -> None:
    """Runs at the same time do not mix up their ends."""
    runtime = await lab.node()

    async def one(number: int) -> int:
        run = await runtime.adopt_or_start(lab.spec("exit", str(number), name=f"n{number}"))
        return (await run.wait()).code

    assert await asyncio.gather(*(one(n) for n in range(8))) == list(range(8))


async def test_find_of_nothing(lab: Lab) -> None:
    """There is no run of a name that was never started."""
    runtime = await lab.node()

    assert await runtime.find(f"sbx-{lab.topology}.m.nothing") is None


async def test_a_missing_image_is_named(lab: Lab) -> None:
    """An image that is not there is reported beforehand, and refused at the start."""
    runtime = await lab.node()
    if lab.kind == "process":
        assert await runtime.missing(["sbx/absent:1"]) == []
        return
    spec = msgspec.structs.replace(lab.spec("exit", "0"), image="sbx/absent:1")

    assert await runtime.missing(["sbx/absent:1", lab._image]) == ["sbx/absent:1"]
    with pytest.raises(ImageMissing):
        await runtime.adopt_or_start(spec)


async def test_check_of_a_living_runtime(lab: Lab) -> None:
    """A runtime that answers has nothing to complain about."""
    await (await lab.node()).check()


async def test_a_renamed_run_is_found_by_its_new_name(lab: Lab) -> None:
    """A run in somebody's hands goes by its new name, runs on and tells its end as before."""
    runtime = await lab.node()
    old, new = lab.spec("sleep"), lab.spec("sleep", name="two").name
    run = await runtime.adopt_or_start(old)

    assert await runtime.rename(old.name, new)
    found = await runtime.find(new)

    assert (run.name, await runtime.find(old.name)) == (new, None)
    assert found is not None
    await found.stop(0.1)
    assert (await run.wait()).code == (await found.wait()).code
    assert [stray.name for stray in await runtime.stray({"sbx.topology": lab.topology})] == [new]


async def test_an_ended_run_can_be_renamed(lab: Lab) -> None:
    """Its exit code and what it printed come along; removed by its new name, it is gone."""
    runtime = await lab.node()
    old, new = lab.spec("print", "3"), lab.spec("print", name="two").name
    await (await runtime.adopt_or_start(old)).wait()

    assert await runtime.rename(old.name, new)
    run = await runtime.find(new)

    assert run is not None
    assert ((await run.wait()).code, (await run.logs(1000)).stdout[:7]) == (0, b"line 0\n")
    await runtime.remove(new)
    assert await runtime.stray({"sbx.topology": lab.topology}) == []


async def test_a_new_name_outlives_the_node(lab: Lab) -> None:
    """A node that is started again finds a renamed run by its new name, and adopts it."""
    node = await lab.node()
    old, new = lab.spec("sleep"), lab.spec("sleep", name="two")
    await node.adopt_or_start(old)
    assert await node.rename(old.name, new.name)
    await lab.kill_node(node)

    again = await lab.node()
    assert await again.find(old.name) is None
    run = await again.find(new.name)
    assert run is not None
    await run.stop(0.1)

    assert (await run.wait()).code in (137, 143)


async def test_a_taken_name_is_refused(lab: Lab) -> None:
    """The name is the lock: of two runs that want one name at the same moment, one gets it."""
    nodes = [await lab.node() for _ in range(2)]
    specs = [lab.spec("sleep", name=name) for name in ("one", "two")]
    for spec in specs:
        await nodes[0].adopt_or_start(spec)
    new = lab.spec("sleep", name="three").name

    won = await asyncio.gather(
        *(node.rename(spec.name, new) for node, spec in zip(nodes, specs, strict=True))
    )

    assert sorted(won) == [False, True]
    left = {stray.name for stray in await nodes[0].stray({"sbx.topology": lab.topology})}
    assert left == {new, specs[won.index(False)].name}


async def test_a_name_that_is_not_there_cannot_be_given_up(lab: Lab) -> None:
    """Who wants to rename a run that has gone is told so."""
    runtime = await lab.node()
    spec = lab.spec("sleep")

    assert not await runtime.rename(spec.name, lab.spec("sleep", name="two").name)


async def test_an_image_has_an_identity(lab: Lab) -> None:
    """It is the same as long as the name stands for the same, and nothing if it is not there."""
    runtime = await lab.node()

    known = await runtime.identity(lab._image)

    assert await runtime.identity(lab._image) == known
    assert bool(known) == (lab.kind != "process")
    assert await runtime.identity("sbx/absent:1") == ""
