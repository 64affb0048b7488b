"""Where a shepherd is found: with its state directory, whatever the node's environment says."""

import asyncio
import os
import shutil
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from integration.test_runtime_process import shepherd_of, spec

from scalebox_actors.runtimes.process import ProcessRuntime
from scalebox_actors.runtimes.shepherd_link import LOG_BYTES, end_shepherd

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

NAME = "sbx-t.m.one"
Surroundings = Callable[[str], Path]


@pytest.fixture
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Surroundings:
    """Return what changes the environment in which the next node is started."""

    def change(name: str) -> Path:
        place = tmp_path / name
        place.mkdir(mode=0o700, exist_ok=True)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
        return place

    return change


@asynccontextmanager
async def node(state: Path) -> AsyncIterator[ProcessRuntime]:
    """Start a node, and let it go."""
    runtime = await ProcessRuntime.open(state)
    yield runtime
    await runtime.close()


async def test_another_environment_finds_the_same_shepherd(
    tmp_path: Path, surroundings: Surroundings
) -> None:
    """A service and a shell have other variables, and logind removes what one of them names."""
    state = tmp_path / "state"
    first = surroundings("run1")
    async with node(state) as runtime:
        await runtime.adopt_or_start(spec(tmp_path, "sleep 60"))
        shepherd = shepherd_of(state)
    surroundings("run2")
    async with node(state) as other:
        by_another = await other.find(NAME)
    surroundings("run1")
    await asyncio.to_thread(shutil.rmtree, first)
    surroundings("run1").chmod(0o777)  # and what is there now is nobody's to trust
    async with node(state) as later:
        by_a_later_one = await later.find(NAME)
        await later.remove(NAME)

    assert by_another is not None
    assert by_a_later_one is not None
    assert shepherd_of(state) == shepherd


async def test_where_the_state_cannot_hold_a_socket_it_is_elsewhere(
    tmp_path: Path, surroundings: Surroundings
) -> None:
    """And a shepherd that listens there, as older ones do, is found there."""
    state = tmp_path / "state"
    await asyncio.to_thread((state / "socket").mkdir, parents=True)
    place = surroundings("run")
    async with node(state) as runtime:
        await runtime.adopt_or_start(spec(tmp_path, "sleep 60"))
    (state / "socket").rmdir()
    shepherd = shepherd_of(state)
    async with node(state) as later:
        found = await later.find(NAME)
        await later.remove(NAME)

    assert found is not None
    assert shepherd_of(state) == shepherd
    assert [file.name[:4] for file in place.iterdir()] == ["sbx-"]


async def test_nobody_else_may_connect(tmp_path: Path) -> None:
    """Whatever the node lets others do with its files; its programs do as the node does."""
    state = tmp_path / ("long" * 40) / "state"
    before = os.umask(0o002)
    try:
        async with node(state) as runtime:
            run = await runtime.adopt_or_start(spec(tmp_path, "umask"))
            await run.wait()
            said = (await run.logs(100)).stdout
            await runtime.remove(NAME)
    finally:
        os.umask(before)

    assert stat.S_IMODE((state / "socket").stat().st_mode) == 0o600
    assert said.strip().endswith(b"002")


async def test_a_log_keeps_what_a_shepherd_said_when_it_crashed(tmp_path: Path) -> None:
    """The next one writes behind it; only a long log begins anew, and nothing else is lost."""
    state = tmp_path / "state"
    state.mkdir()
    (state / "shepherd.log").write_text("Traceback of the one before\n")
    async with node(state):
        kept = (state / "shepherd.log").read_text()
    end_shepherd(state)
    (state / "shepherd.log").write_bytes(b"x" * (LOG_BYTES + 1))
    async with node(state):
        size = (state / "shepherd.log").stat().st_size

    assert (kept, size) == ("Traceback of the one before\n", 0)
