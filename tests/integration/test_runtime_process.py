"""What only the process runtime promises: its shepherd outlives the node."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import NoReturn, cast

import msgspec
import pytest

from scalebox_actors.errors import RuntimeUnavailable, SpecRejected
from scalebox_actors.limits import CONTAINER_LOG_BYTES
from scalebox_actors.runtimes.choose import open_runtime
from scalebox_actors.runtimes.docker import DockerRuntime
from scalebox_actors.runtimes.process import ProcessRuntime
from scalebox_actors.runtimes.shepherd_link import Answer
from scalebox_actors.runtimes.shepherd_main import OPEN_FILES
from scalebox_actors.spec import ContainerSpec, Mount

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

NODE = """
import asyncio, sys, msgspec
from scalebox_actors.runtimes.docker import DockerRuntime
from scalebox_actors.runtimes.process import ProcessRuntime
from scalebox_actors.spec import ContainerSpec

async def main():
    runtime = await ProcessRuntime.open(sys.argv[1])
    spec = msgspec.json.decode(sys.argv[2], type=ContainerSpec)
    run = await runtime.adopt_or_start(spec)
    print("started", flush=True)
    await run.wait()

asyncio.run(main())
"""


def spec(place: Path, script: str, name: str = "sbx-t.m.one") -> ContainerSpec:
    """Return a run of a shell script in a work directory below `place`."""
    work = place / "work"
    work.mkdir(exist_ok=True)
    return ContainerSpec(
        name=name,
        image="",
        command=("/bin/sh", "-c", script),
        env={},
        labels={"sbx.topology": "t", "sbx.attempt": "1"},
        work=str(work),
    )


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition of the world outside."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - files and processes send no events
            await asyncio.sleep(0.01)


def marked(text: str) -> list[int]:
    """Return the processes that descend from runs whose mark holds `text`."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            environ = (process / "environ").read_bytes() if process.name.isdigit() else b""
        except OSError:
            continue
        marks = [e for e in environ.split(b"\0") if e.startswith(b"SBX_RUN=")]
        if any(text.encode() in mark for mark in marks):
            found.append(int(process.name))
    return found


def shepherd_of(state: Path) -> int:
    """Return the process that looks after a state directory."""
    for process in Path("/proc").iterdir():
        try:
            line = (process / "cmdline").read_bytes() if process.name.isdigit() else b""
        except OSError:
            continue
        if b"shepherd" in line and os.fsencode(state) in line:
            return int(process.name)
    return 0


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[ProcessRuntime]:
    """Return a process runtime with a state directory of its own."""
    opened = await ProcessRuntime.open(tmp_path / "state")
    yield opened
    for stray in await opened.stray({}):
        await opened.remove(stray.name)
    await opened.close()


async def test_a_killed_nodes_program_keeps_its_exit_code(tmp_path: Path) -> None:
    """A node is killed with -9; the next one adopts its program and learns how it ended."""
    wanted = spec(tmp_path, "while [ ! -e go ]; do sleep 0.02; done; echo said; exit 7")
    node = await asyncio.to_thread(_start_node, tmp_path / "state", wanted)
    node.kill()
    await asyncio.to_thread(node.wait)
    if node.stdout:
        node.stdout.close()

    again = await ProcessRuntime.open(tmp_path / "state")
    run = await again.adopt_or_start(wanted)
    (Path(wanted.work) / "go").touch()
    end, logs = await run.wait(), await run.logs(100)
    await again.remove(wanted.name)
    await again.close()

    assert (run.adopted, end.code, end.lost) == (True, 7, False)
    assert logs.stdout == b"said\n"


def _start_node(state: Path, wanted: ContainerSpec) -> "subprocess.Popen[bytes]":

    encoded = msgspec.json.encode(wanted).decode()
    node = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-c", NODE, str(state), encoded], stdout=subprocess.PIPE
    )
    assert node.stdout is not None
    assert node.stdout.readline() == b"started\n"
    return node


async def test_an_older_shepherd_is_given_no_lanes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was started by an earlier version does not know the word, and says so."""
    real = ProcessRuntime.ask

    async def older(runtime: ProcessRuntime, question: dict[str, object], **how: float) -> Answer:
        unknown = {"do": "a word of the future"}
        return await real(runtime, unknown if question["do"] == "lanes" else question, **how)

    monkeypatch.setattr(ProcessRuntime, "ask", older)

    runtime = await ProcessRuntime.open(tmp_path / "state")

    assert not runtime.lanes
    await runtime.close()


async def test_a_killed_shepherd_loses_its_runs_and_leaves_nothing(
    runtime: ProcessRuntime, tmp_path: Path
) -> None:
    """Without its shepherd a program has no exit code: it is ended and told as lost."""
    wanted = spec(tmp_path, "sleep 300")
    run = await runtime.adopt_or_start(wanted)
    pids = marked(f"{tmp_path}/state/")

    os.kill(shepherd_of(tmp_path / "state"), signal.SIGKILL)
    end = await run.wait()

    assert pids
    assert end.lost
    assert marked(f"{tmp_path}/state/") == []


async def test_a_following_shepherd_knows_what_ended_before(
    runtime: ProcessRuntime, tmp_path: Path
) -> None:
    """How a program ended is kept though the shepherd is killed afterwards."""
    wanted = spec(tmp_path, "echo hello; exit 9")
    await (await runtime.adopt_or_start(wanted)).wait()
    os.kill(shepherd_of(tmp_path / "state"), signal.SIGKILL)
    await until(lambda: shepherd_of(tmp_path / "state") == 0)

    run = await runtime.find(wanted.name)

    assert run is not None
    assert ((await run.wait()).code, (await run.wait()).lost) == (9, False)
    assert (await run.logs(10)).stdout == b"hello\n"


async def test_a_flood_fills_neither_disk_nor_memory(
    runtime: ProcessRuntime, tmp_path: Path
) -> None:
    """Of what a program prints only the newest is kept, and never more than its bound."""
    wanted = spec(tmp_path, "yes 0123456789 | head -c 100000000; echo the end")

    run = await runtime.adopt_or_start(wanted)
    await run.wait()
    logs = await run.logs(8)

    held = sum(f.stat().st_size for f in (tmp_path / "state").iterdir())
    assert held < CONTAINER_LOG_BYTES * 1.2
    assert (logs.stdout, logs.stdout_size) == (b"the end\n", 100_000_008)


async def test_removed_runs_leave_no_files(runtime: ProcessRuntime, tmp_path: Path) -> None:
    """What a run printed goes with it."""
    wanted = spec(tmp_path, "echo out; echo err >&2")
    await (await runtime.adopt_or_start(wanted)).wait()

    await runtime.remove(wanted.name)

    left = {f.name for f in (tmp_path / "state").iterdir()}
    assert left == {"journal", "shepherd.lock", "shepherd.log", "shepherd.pid", "socket"}


async def test_what_a_program_started_ends_with_it(runtime: ProcessRuntime, tmp_path: Path) -> None:
    """Children left behind, also those in a session of their own, end with the run."""
    wanted = spec(tmp_path, "sleep 300 & setsid sh -c 'sleep 301 & sleep 302' & exit 0")

    await (await runtime.adopt_or_start(wanted)).wait()

    await until(lambda: marked(f"{tmp_path}/state/") == [])


async def test_a_program_has_no_input_and_little_environment(
    runtime: ProcessRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Standard input is empty, and the node's own variables are not passed on."""
    monkeypatch.setenv("SBX_PASSWORD", "canary")

    run = await runtime.adopt_or_start(spec(tmp_path, "cat; env"))
    await run.wait()

    assert b"canary" not in (await run.logs(10_000)).stdout


@pytest.mark.parametrize(
    "wish",
    [
        {"user": "nobody-of-that-name"},
        {"mounts": (Mount(source="/tmp", target="/data"),)},
        {"command": ()},
        {"command": ("a\0b",)},
        {"name": "../up"},
        {"work": "/absent/work"},
    ],
)
async def test_what_it_cannot_give_is_refused(
    runtime: ProcessRuntime, tmp_path: Path, wish: dict[str, object]
) -> None:
    """A spec that counts on a container is refused, not run as something else."""
    wanted = msgspec.structs.replace(spec(tmp_path, "true"), **wish)

    with pytest.raises(SpecRejected):
        await runtime.adopt_or_start(wanted)


async def test_two_nodes_share_one_shepherd(runtime: ProcessRuntime, tmp_path: Path) -> None:
    """Who opens a state directory that has a shepherd gets that one."""
    others = await asyncio.gather(*(ProcessRuntime.open(tmp_path / "state") for _ in range(4)))
    wanted = spec(tmp_path, "exit 3")
    await runtime.adopt_or_start(wanted)

    run = await others[3].find(wanted.name)
    code = (await run.wait()).code if run else None
    for other in others:
        await other.close()

    assert code == 3


async def test_without_an_engine_the_process_runtime_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No engine answers and none was asked for: programs run as processes, with a warning."""

    async def absent(*_: object, **__: object) -> NoReturn:
        raise RuntimeUnavailable("no engine")

    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr(DockerRuntime, "open", absent)

    runtime = await open_runtime(None, state=tmp_path / "state")
    await runtime.close()

    assert runtime.kind == "process"
    assert {"runtime_fallback", "runtime_process"} <= {record.message for record in caplog.records}


@pytest.mark.parametrize(("variable", "isolated"), [("DOCKER_HOST", False), ("OTHER", True)])
async def test_isolation_is_never_given_up_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, isolated: bool
) -> None:
    """Where an engine was named, or isolation is expected, its absence is an error."""

    async def absent(*_: object, **__: object) -> NoReturn:
        raise RuntimeUnavailable("no engine")

    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv(variable, f"unix://{tmp_path}/absent.sock")
    monkeypatch.setattr(DockerRuntime, "open", absent)

    with pytest.raises(RuntimeUnavailable, match="--runtime process"):
        await open_runtime(None, state=tmp_path / "state", isolated=isolated)


async def test_ended_runs_are_forgotten_together_and_a_living_one_alone(
    runtime: ProcessRuntime, tmp_path: Path
) -> None:
    """A group that was committed costs its shepherd one question; nobody waits for a death."""
    asked: list[list[str]] = []
    ask = runtime.ask

    async def noting(question: Mapping[str, object], **limits: float) -> Answer:
        if question["do"] == "remove":
            asked.append(cast("list[str]", question["names"]))
        return await ask(question, **limits)

    runtime.ask = noting  # type: ignore[method-assign]
    names = [f"sbx-t.m.{number}" for number in range(5)]
    for name in names:
        run = await runtime.adopt_or_start(spec(tmp_path, "echo said", name))
        await run.wait()
    await runtime.adopt_or_start(spec(tmp_path, "sleep 60", "sbx-t.m.lives"))
    await asyncio.gather(*(runtime.remove(name) for name in (*names, "sbx-t.m.lives")))

    assert sorted(asked, key=len) == [["sbx-t.m.lives"], names]
    assert await runtime.stray({}) == []
    assert not list((tmp_path / "state").glob("*.stdout"))


async def test_a_shepherd_that_follows_a_killed_one_knows_what_was_forgotten(
    runtime: ProcessRuntime, tmp_path: Path
) -> None:
    """The journal's one line for a group is read as a removal of each of them."""
    for number in range(4):
        run = await runtime.adopt_or_start(spec(tmp_path, "exit 0", f"sbx-t.m.{number}"))
        await run.wait()
    await asyncio.gather(*(runtime.remove(f"sbx-t.m.{number}") for number in range(3)))
    os.kill(shepherd_of(tmp_path / "state"), signal.SIGKILL)

    assert [stray.name for stray in await runtime.stray({})] == ["sbx-t.m.3"]


async def test_a_shepherd_has_descriptors_for_many_runs(tmp_path: Path) -> None:
    """A run that prints takes four; the usual soft limit is 1,024."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        runtime = await ProcessRuntime.open(tmp_path / "state")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    run = await runtime.adopt_or_start(spec(tmp_path, "ulimit -n"))
    await run.wait()
    said = (await run.logs(100)).stdout
    await runtime.remove(run.name)
    await runtime.close()

    assert int(said) == min(OPEN_FILES, limits[1])
