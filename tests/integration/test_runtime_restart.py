"""An engine that goes and comes back takes no run's verdict with it."""

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from scalebox_actors.errors import RuntimeUnavailable
from scalebox_actors.runtimes.docker import DockerRuntime
from scalebox_actors.spec import ContainerSpec

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

ENGINE = Path(__file__).resolve().parents[2] / "deploy" / "private-dockerd"


class OwnEngine:
    """A dockerd that only this test uses, and may therefore kill."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.socket = folder, str(folder / "docker.sock")

    def start(self) -> None:
        """Start it, or start it again on what it left."""
        subprocess.run([ENGINE, "start", self.folder], check=True, capture_output=True)  # noqa: S603

    @property
    def pid(self) -> int:
        """Its daemon's process."""
        return int((self.folder / "pid").read_text())

    def end(self, number: int) -> None:
        """End its daemon with a signal, and wait until it is gone; containers run on."""
        pid = self.pid
        os.kill(pid, number)
        deadline = time.monotonic() + 30
        while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)

    def stop(self) -> None:
        """End it and all that it started."""
        subprocess.run([ENGINE, "stop", self.folder], check=False, capture_output=True)  # noqa: S603


@pytest.fixture(scope="module")
def engine(
    cannot_run: Callable[[str], NoReturn], import_busybox: Callable[[str], str]
) -> Iterator[OwnEngine]:
    """Return an engine of our own with an image on it."""
    if os.getuid() != 0 or shutil.which("dockerd") is None:
        cannot_run("only root with Debian's docker.io can start a dockerd of its own")
    folder = Path(tempfile.mkdtemp(prefix="sbx-"))  # not pytest's: a socket's path must be short
    made = OwnEngine(folder)
    made.start()
    try:
        import_busybox(made.socket)
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def runtime(engine: OwnEngine) -> AsyncIterator[DockerRuntime]:
    """Return a runtime on that engine; its containers go with it."""
    opened = await DockerRuntime.open(f"unix://{engine.socket}")
    yield opened
    for stray in await opened.stray({}):
        await opened.remove(stray.name)
    await opened.close()


def spec(work: Path, name: str, script: str) -> ContainerSpec:
    """Return a container that runs a shell script."""
    return ContainerSpec(
        name=f"sbx-t.restart.{name}",
        image="sbx/test-busybox:1",
        command=("/bin/sh", "-c", script),
        env={},
        labels={"sbx.topology": "t", "sbx.attempt": "1"},
        work=str(work),
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_daemon_that_restarts_loses_no_exit(
    engine: OwnEngine, runtime: DockerRuntime, tmp_path: Path, number: int
) -> None:
    """With live-restore containers run on; those that end meanwhile keep their codes."""
    ends = await runtime.adopt_or_start(spec(tmp_path, "ends", "sleep 1; exit 5"))
    goes_on = await runtime.adopt_or_start(
        spec(tmp_path, "on", "until [ -e go ]; do sleep 0.1; done; exit 6")
    )
    waiting = [asyncio.create_task(run.wait()) for run in (ends, goes_on)]

    await asyncio.to_thread(engine.end, number)
    await asyncio.to_thread(engine.start)
    (tmp_path / "go").touch()
    async with asyncio.timeout(60):
        found = [await wait for wait in waiting]

    assert [(end.code, end.lost) for end in found] == [(5, False), (6, False)]


async def test_a_daemon_that_hangs_is_told_and_forgiven(
    engine: OwnEngine, runtime: DockerRuntime, tmp_path: Path
) -> None:
    """A stopped daemon does not answer a check; once it goes on, the run is as it was."""
    run = await runtime.adopt_or_start(spec(tmp_path, "hang", "sleep 1; exit 7"))
    waiting = asyncio.create_task(run.wait())

    os.kill(engine.pid, signal.SIGSTOP)
    try:
        with pytest.raises(RuntimeUnavailable):
            await runtime.check()
    finally:
        os.kill(engine.pid, signal.SIGCONT)
    async with asyncio.timeout(30):
        end = await waiting

    assert (end.code, end.lost) == (7, False)
