"""Functions: found in the topology's folder, awaited under a time limit, never able to hurt."""

import asyncio
import sys
from pathlib import Path

import pytest

from scalebox_actors.contract import Emission
from scalebox_actors.errors import BadInput, NotAdmitted
from scalebox_actors.launch.function import Function, FunctionLauncher, load_function
from scalebox_actors.message import Message
from scalebox_actors.ports import Task
from scalebox_actors.records import Cause, Outcome
from scalebox_actors.topology.model import Duration, Module

MODULE = Module(name="f", function="x:y", timeout=Duration(0.05))
TASK = Task(message=Message(module="f", id="1", body=b"7"))


async def run(function: object) -> Outcome:
    """Run one task through a function."""
    return await FunctionLauncher(MODULE, function).run(TASK)  # type: ignore[arg-type]  # bad ones too


def emitted(outcome: Outcome) -> list[tuple[str | None, bytes]]:
    """Module and body of each output."""
    return [(e.module, e.body) for e in outcome.emissions]


def returning(answer: object) -> Function:
    """A function that returns `answer`."""

    async def function(message: Message) -> object:
        del message
        return answer

    return function  # type: ignore[return-value]  # wrong answers are the point


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (None, []),
        ("a", [(None, b"a")]),
        (b"\xff", [(None, b"\xff")]),
        (["a", b"b"], [(None, b"a"), (None, b"b")]),
        (Emission(module="m", body=b"x", headers={}), [("m", b"x")]),
        (iter(["a"]), [(None, b"a")]),
    ],
)
async def test_answers_become_outputs(answer: object, expected: list[object]) -> None:
    """Nothing, one output or several, as bytes, text or with a module."""
    outcome = await run(returning(answer))

    assert (outcome.exit_code, emitted(outcome)) == (0, expected)


@pytest.mark.parametrize("answer", [5, [1], object()])
async def test_a_wrong_answer_is_bad_output(answer: object) -> None:
    """Whatever is no output spoils the run with code 120 and says what it was."""
    outcome = await run(returning(answer))

    assert (outcome.exit_code, outcome.cause) == (120, Cause.BAD_OUTPUT)
    assert "function returned" in outcome.detail


async def test_an_exception_is_an_outcome() -> None:
    """An exception fails the run with 1, its traceback is the run's stderr."""

    async def function(message: Message) -> None:
        raise ValueError(message.body)

    outcome = await run(function)

    assert (outcome.exit_code, outcome.cause) == (1, Cause.EXIT)
    assert outcome.detail == "ValueError: b'7'"
    assert "Traceback" in outcome.stderr.text


@pytest.mark.parametrize(("said", "expected"), [(3, 3), (0, 1), (None, 1), ("so long", 1)])
async def test_an_exit_ends_the_run_alone(said: object, expected: int) -> None:
    """`sys.exit` in a function is no end of the node; 0 is a failure, too: it gave no answer."""

    async def function(message: Message) -> None:
        del message
        sys.exit(said)  # type: ignore[arg-type]  # whatever they write

    outcome = await run(function)

    assert (outcome.exit_code, outcome.cause) == (expected, Cause.EXIT)
    assert outcome.detail.startswith("SystemExit: ")


async def test_an_interrupt_is_no_outcome() -> None:
    """Ctrl-C while a function works is meant for the node."""

    async def function(message: Message) -> None:
        raise KeyboardInterrupt(message.id)

    with pytest.raises(KeyboardInterrupt):
        FunctionLauncher(MODULE, function).run(TASK).send(None)


async def test_an_exception_may_choose_its_exit_code() -> None:
    """An exception with `exit_code` obeys the retry rules of that code."""

    class TryLaterError(Exception):
        exit_code = 75

    async def function(message: Message) -> None:
        raise TryLaterError(message.id)

    assert (await run(function)).exit_code == 75


async def test_a_slow_function_is_ended() -> None:
    """A function over its time limit is cancelled: code 124."""

    async def function(message: Message) -> None:
        del message
        await asyncio.Event().wait()

    outcome = await run(function)

    assert (outcome.exit_code, outcome.cause) == (124, Cause.TIMEOUT)


async def test_the_functions_own_timeout_is_no_time_limit() -> None:
    """A `TimeoutError` that a function raises itself is told from ours by its text."""

    async def function(message: Message) -> None:
        del message
        raise TimeoutError("the other server")

    outcome = await run(function)

    assert (outcome.exit_code, outcome.cause) == (1, Cause.EXIT)


def test_functions_of_two_topologies_are_told_apart(tmp_path: Path) -> None:
    """Each topology's own file is loaded, also when both have the same name."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "total.py").write_text(f"async def add(m): return '{name}'\n")

    one = load_function("total:add", tmp_path / "one")
    two = load_function("total:add", tmp_path / "two")

    message = TASK.message
    assert [asyncio.run(f(message)) for f in (one, two)] == ["one", "two"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("total", "not of the form"),
        ("nowhere:add", "cannot import"),
        ("total:absent", "has no 'absent'"),
        ("total:plain", "not an `async def`"),
        ("broken:add", "cannot import"),
    ],
)
def test_a_function_that_cannot_be_loaded_is_named(path: str, reason: str, tmp_path: Path) -> None:
    """What is wrong with a function is said when the node starts, not at the first message."""
    (tmp_path / "total.py").write_text("def plain(m): return None\n")
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")

    with pytest.raises(BadInput, match=reason):
        load_function(path, tmp_path)


async def test_what_runs_when_the_node_ends_is_not_admitted() -> None:
    """Nothing could adopt it, and it is not to blame; afterwards nothing begins any more."""

    async def function(message: Message) -> None:
        del message
        await asyncio.Event().wait()

    launcher = FunctionLauncher(MODULE, function)
    running = asyncio.create_task(launcher.run(TASK))
    await asyncio.sleep(0)
    await launcher.close()

    with pytest.raises(NotAdmitted):
        await running
    assert running.cancelling() == 0
    with pytest.raises(NotAdmitted):
        await launcher.run(TASK)


async def test_what_a_function_makes_of_its_cancellation_is_no_failure() -> None:
    """The node ends it, and it says so in words of its own: it is not to blame."""

    async def function(message: Message) -> None:
        del message
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise RuntimeError("download interrupted") from None

    launcher = FunctionLauncher(MODULE, function)
    running = asyncio.create_task(launcher.run(TASK))
    await asyncio.sleep(0)
    await launcher.close()

    with pytest.raises(NotAdmitted):
        await running
