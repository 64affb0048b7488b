"""Containers without a daemon while shepherds and keepers are killed: nothing is lost untold."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from integration.containers import MIB, Bench, on_oci

from scalebox_actors.runtimes.oci import OciRuntime
from scalebox_actors.runtimes.oci_images import ImageStore
from scalebox_actors.runtimes.shepherd_container import PATIENCE
from scalebox_actors.spec import ContainerSpec

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

Oci = Bench[OciRuntime]


@pytest.fixture
async def bench(oci_images: ImageStore, tmp_path: Path) -> AsyncIterator[Oci]:
    """Return a bench with a state directory of its own."""
    async with on_oci(tmp_path, oci_images) as made:
        yield made


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition of the world outside."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - files and processes send no events
            await asyncio.sleep(0.01)


def processes(*words: str) -> Iterator[int]:
    """Yield the processes whose command line holds all of some words."""
    for process in Path("/proc").iterdir():
        try:
            line = (process / "cmdline").read_bytes() if process.name.isdigit() else b""
        except OSError:
            continue
        if line and all(word.encode() in line for word in words):
            yield int(process.name)


def shepherd_of(state: Path) -> int:
    """Return the shepherd of a state directory, or 0."""
    return next(processes("runtimes.shepherd", f"{state}\0"), 0)


def keeper_of(state: Path) -> int:
    """Return the one keeper of a state directory, or 0."""
    return next(processes("keeper", "/bin/sh", f"{state}/"), 0)


async def test_a_killed_shepherd_loses_nothing(bench: Oci) -> None:
    """Its containers live on; the next shepherd takes them over, with code, output and usage."""
    script = "echo before; until [ -e go ]; do sleep 0.02; done; echo after; exit 7"
    run = await bench.runtime.adopt_or_start(
        msgspec.structs.replace(bench.spec(script), memory=64 * MIB)
    )
    waiting = asyncio.create_task(run.wait())
    os.kill(shepherd_of(bench.state), signal.SIGKILL)
    assert await bench.runtime.find(run.name)
    (bench.work / "go").touch()

    end, logs = await waiting, await run.logs(100)

    assert (end.code, end.lost) == (7, False)
    assert logs.stdout == b"before\nafter\n"
    assert end.cpu_seconds


async def ended_alone(bench: Oci, spec: ContainerSpec) -> None:
    """Start a container that waits for a file `go`, and let it end without node and shepherd."""
    await bench.runtime.adopt_or_start(spec)
    await until(lambda: keeper_of(bench.state) > 0)
    await bench.runtime.close()
    os.kill(shepherd_of(bench.state), signal.SIGKILL)
    (bench.work / "go").touch()
    await until(lambda: keeper_of(bench.state) == 0)


async def test_an_end_between_shepherds_is_kept(bench: Oci) -> None:
    """Node and shepherd are killed; the container ends; who comes back learns code and output."""
    spec = bench.spec("until [ -e go ]; do sleep 0.02; done; echo late; echo e >&2; exit 9")
    await ended_alone(bench, spec)

    again = await OciRuntime.over(bench.runtime._images, bench.state)
    bench.runtime = again
    run = await again.adopt_or_start(spec)
    end, logs = await run.wait(), await run.logs(100)
    await again.remove(spec.name)
    await again.close()

    assert (logs.stdout, logs.stderr) == (b"late\n", b"e\n")
    assert (run.adopted, end.code, end.lost) == (True, 9, False)


async def test_memory_that_ran_out_between_shepherds_is_told(bench: Oci) -> None:
    """A kernel that counts it only for listeners had none; the limit was reached all the same."""
    script = "until [ -e go ]; do sleep 0.02; done; exec tail /dev/zero"
    spec = msgspec.structs.replace(bench.spec(script), memory=16 * MIB)
    await ended_alone(bench, spec)

    bench.runtime = await OciRuntime.over(bench.runtime._images, bench.state)
    end = await (await bench.runtime.adopt_or_start(spec)).wait()

    assert (end.code, end.out_of_memory, end.lost) == (137, True, False)


async def test_a_killed_keeper_loses_its_container(bench: Oci) -> None:
    """Without keeper and crun nobody learns the exit code: what is left is ended, and lost."""
    run = await bench.runtime.adopt_or_start(bench.spec("touch up; exec sleep 300"))
    await until((bench.work / "up").exists)

    keeper = keeper_of(bench.state)
    for pid in (keeper, *processes("crun", "--bundle", f"{bench.state}/")):
        if pid != keeper:
            os.kill(pid, signal.SIGKILL)
    end = await run.wait()

    assert end.lost
    assert list(processes("sleep", "300")) == []


def _of_another_user(mark: str) -> subprocess.Popen[bytes]:
    """Start a process of nobody's that passes for one of a run."""
    words, nobody = ["/bin/sleep", "300"], 65_534
    env = {"SBX_RUN": mark}
    return subprocess.Popen(words, user=nobody, group=nobody, extra_groups=[], env=env)  # noqa: S603


async def test_a_name_of_ours_in_an_environment_is_no_keeper(bench: Oci) -> None:
    """Neither a container nor another user can hold up a takeover, nor give out another's end."""
    good = await bench.runtime.adopt_or_start(
        bench.spec("until [ -e go ]; do sleep 0.02; done; exit 5", name="good")
    )
    marks = [f"{bench.state}/{run}" for run in ("x", "y", good._watch.id)]
    script = "".join(f"SBX_RUN={mark} sleep 300 & " for mark in marks)
    bad = await bench.runtime.adopt_or_start(bench.spec(f"{script}touch up; wait", name="bad"))
    await until((bench.work / "up").exists)
    others = [_of_another_user(mark) for mark in marks if os.getuid() == 0]
    os.kill(shepherd_of(bench.state), signal.SIGKILL)
    began = time.monotonic()
    try:
        assert await bench.runtime.find(good.name)
        took = time.monotonic() - began
        (bench.work / "go").touch()
        end = await good.wait()
        living = [other.poll() for other in others]
    finally:
        for other in others:
            other.kill()
            other.wait()
    await bench.runtime.remove(bad.name)

    assert (end.code, end.lost) == (5, False)
    assert took < PATIENCE
    assert living == [None] * len(others)


async def test_a_run_is_renamed_once(bench: Oci) -> None:
    """A run takes a free name while it lives, and keeps all that it has; a taken one is refused."""
    old, other = bench.spec("until [ -e go ]; do sleep 0.02; done; echo x; exit 4"), "sbx-new.m.a"
    await bench.runtime.adopt_or_start(old)
    await bench.runtime.adopt_or_start(bench.spec("sleep 300", name="taken"))

    taken = await bench.runtime.rename(old.name, bench.spec("", name="taken").name)
    done = await bench.runtime.rename(old.name, other)
    os.kill(shepherd_of(bench.state), signal.SIGKILL)
    (bench.work / "go").touch()
    run = await bench.runtime.find(other)
    assert run is not None
    end, logs = await run.wait(), await run.logs(10)

    assert (taken, done) == (False, True)
    assert await bench.runtime.find(old.name) is None
    assert (end.code, logs.stdout) == (4, b"x\n")


async def test_open_descriptors_do_not_grow(bench: Oci) -> None:
    """Runs that were removed leave nothing open in the shepherd."""
    for _ in range(2):
        await bench.ends(bench.spec("true"))
        await bench.runtime.remove(bench.spec("true").name)
    place = f"/proc/{shepherd_of(bench.state)}/fd"
    before = len(os.listdir(place))  # noqa: PTH208
    for _ in range(4):
        await bench.ends(msgspec.structs.replace(bench.spec("echo x"), memory=32 * MIB))
        await bench.runtime.remove(bench.spec("true").name)

    assert len(os.listdir(place)) <= before  # noqa: PTH208
