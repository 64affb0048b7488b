"""Questions that no node asks: a shepherd answers or hangs up, and looks after its runs."""

import asyncio
import json
from pathlib import Path

import msgspec
import pytest
from integration.test_runtime_process import shepherd_of, spec

from scalebox_actors.runtimes.process import ProcessRuntime

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

START = {"name": "n", "id": "1", "labels": {}, "attempt": 1, "work": "/", "time": 0.0}


async def said(state: Path, line: bytes) -> dict[str, object] | None:
    """Return what a shepherd answers to a line; None if it hangs up."""
    reader, writer = await asyncio.open_unix_connection(str(state / "socket"))
    writer.write(line + b"\n")
    answer = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return json.loads(answer) if answer else None


@pytest.mark.parametrize("line", [b"xx", b"[]", b"7", b"{}", b"[" * 100_000])
async def test_what_is_no_question_is_hung_up_on(tmp_path: Path, line: bytes) -> None:
    """There is nothing to answer to; runs and other nodes hear nothing of it."""
    runtime = await ProcessRuntime.open(tmp_path / "state")
    run = await runtime.adopt_or_start(spec(tmp_path, "until [ -e go ]; do sleep 0.02; done"))

    answer = await said(tmp_path / "state", line)
    (tmp_path / "work/go").touch()
    end = await run.wait()
    await runtime.remove(run.name)
    await runtime.close()

    assert answer is None
    assert (end.code, end.lost) == (0, False)


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ({}, {"error": "KeyError: 'do'"}),
        ({"do": "stop", "name": "n"}, {"error": "KeyError: 'grace'"}),
        (
            {"do": "start", "run": None},
            {"error": "TypeError: 'NoneType' object is not subscriptable"},
        ),
        ({"do": "start", "run": START}, {"error": "KeyError: 'env'"}),
        ({"do": "start", "run": {**START, "lane": {"name": "l"}}}, {"error": "KeyError: 'seats'"}),
        ({"do": "remove", "name": "n"}, {}),
    ],
)
async def test_a_question_in_part_is_answered(
    tmp_path: Path, question: dict[str, object], expected: dict[str, object]
) -> None:
    """It says what is missing, and the next question is answered like any other."""
    runtime = await ProcessRuntime.open(tmp_path / "state")
    shepherd = shepherd_of(tmp_path / "state")

    answer = await said(tmp_path / "state", json.dumps({"n": 3, **question}).encode())
    await runtime.check()
    await runtime.close()

    assert answer is not None
    assert {"n": 3, **expected} == {key: answer[key] for key in ("n", *expected)}
    assert shepherd_of(tmp_path / "state") == shepherd


@pytest.mark.parametrize("what", ["argument", "variable", "program"])
async def test_what_no_program_can_be_given_is_told(tmp_path: Path, what: str) -> None:
    """An argument that is no text, or a variable with a strange name: this run is not started."""
    wanted = spec(tmp_path, "true")
    changes: dict[str, object] = {
        "argument": {"command": ("true", "\ud800")},
        "variable": {"env": {"A=B": "x"}},
        "program": {"command": ("/absent/\udcff",)},
    }[what]  # type: ignore[assignment]
    runtime = await ProcessRuntime.open(tmp_path / "state")

    run = await runtime.adopt_or_start(msgspec.structs.replace(wanted, **changes))
    end = await run.wait()
    await runtime.remove(run.name)
    await runtime.close()

    assert (end.not_started, end.lost) == (True, False)
    assert end.detail


async def test_a_start_that_is_repeated_starts_once(tmp_path: Path) -> None:
    """A node asks again if an old run takes its time to die; the new one is not taken for it."""
    runtime = await ProcessRuntime.open(tmp_path / "state")
    wanted = spec(tmp_path, "sleep 60")
    await runtime.adopt_or_start(wanted)
    again = {
        **START, "name": wanted.name, "attempt": 2, "log_bytes": 100, "env": {},
        "argv": ["/bin/sleep", "60"],
    }  # fmt: skip
    asked = [json.dumps({"n": n, "do": "start", "run": again}).encode() for n in (1, 2)]
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "state/socket"))

    writer.write(b"".join(line + b"\n" for line in asked))  # both are read before anything ends
    answers: dict[int, bool] = {}
    while len(answers) < 2:
        answer = json.loads(await reader.readline())
        if answer["n"]:
            answers[answer["n"]] = answer["adopted"]
    writer.close()
    await writer.wait_closed()
    strays = await runtime.stray({})
    await runtime.remove(wanted.name)
    await runtime.close()

    assert answers == {1: False, 2: True}
    assert [stray.running for stray in strays] == [True]
