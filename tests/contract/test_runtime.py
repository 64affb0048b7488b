"""What every runtime promises of a run: the double, plain processes and a real engine alike."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from contract.laboratory import KINDS
from contract.wordlab import Lab, until, word_lab

from scalebox_actors.errors import ImageMissing

pytestmark = pytest.mark.timeout(60)


RUNC = pytest.param("runc", marks=pytest.mark.integration)
"""The runtime `oci` on a host that has no crun: its threads and its words are others."""


@pytest.fixture(params=("scripted", *KINDS, RUNC))
async def lab(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Lab]:
    """Return a host with the runtime in question."""
    async with word_lab(request, tmp_path) as made:
        yield made


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


async def test_an_image_has_an_identity(lab: Lab) -> None:
    """It is the same as long as the name stands for the same, and nothing if it is not there."""
    runtime = await lab.node()

    known = await runtime.identity(lab._image)

    assert await runtime.identity(lab._image) == known
    assert bool(known) == (lab.kind != "process")
    assert await runtime.identity("sbx/absent:1") == ""
