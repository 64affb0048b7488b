"""What only an engine can show: strangers, lost answers, and ends that are nobody's verdict."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

import msgspec
import pytest
from integration.containers import MIB, Bench, on_docker

from scalebox_actors.errors import NotPermitted, RuntimeUnavailable, SpecRejected
from scalebox_actors.runtimes.docker import DockerRuntime
from scalebox_actors.runtimes.docker_answers import Step
from scalebox_actors.runtimes.docker_body import create_body
from scalebox_actors.runtimes.docker_engine import PATIENCE
from scalebox_actors.runtimes.docker_inspect import Inspected, seconds
from scalebox_actors.spec import Mount

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

Docker = Bench[DockerRuntime]


@pytest.fixture
async def bench(busybox_image: str, tmp_path: Path) -> AsyncIterator[Docker]:
    """Return a bench on the engine that DOCKER_HOST names."""
    async with on_docker(tmp_path, busybox_image) as made:
        yield made


async def ask(bench: Docker, method: str, path: str, body: object = None) -> None:
    """Do behind the runtime's back what a person could do."""
    engine = bench.runtime.engine
    made = await engine.call(Step.OTHER, lambda: engine.request(method, path, None, body))
    assert isinstance(made, bytes)


async def test_the_deny_list_is_a_seccomp_filter_too(bench: Docker) -> None:
    """With the operator's short list a namespace can still not be made."""
    hardened = await DockerRuntime.open(deny_list=True)
    spec = bench.spec("grep -E '^Seccomp:' /proc/self/status; unshare -U true 2>/dev/null; echo $?")

    run = await hardened.adopt_or_start(spec)
    await run.wait()
    said = (await run.logs(1000)).stdout
    await hardened.close()

    assert said == b"Seccomp:\t2\n1\n"


async def test_a_container_removed_from_outside_is_lost(bench: Docker) -> None:
    """Somebody removes a running container: no verdict of the program."""
    run = await bench.runtime.adopt_or_start(bench.spec("sleep 300"))

    await ask(bench, "DELETE", f"containers/{run.name}?force=1")

    assert (await run.wait()).lost


@pytest.mark.parametrize("signal", ["KILL", "TERM"])
async def test_a_container_killed_from_outside_is_lost(bench: Docker, signal: str) -> None:
    """Somebody, or an engine that is stopped, ends a container: no verdict of the program."""
    run = await bench.runtime.adopt_or_start(bench.spec("sleep 300"))

    await ask(bench, "POST", f"containers/{run.name}/kill?signal={signal}")

    assert (await run.wait()).lost


async def test_a_program_that_kills_itself_is_not_lost(bench: Docker) -> None:
    """The same exit code by the program's own doing is its verdict."""
    end = await bench.ends(bench.spec("kill -9 $$"))

    assert (end.code, end.lost) == (137, False)


async def test_a_container_that_was_never_started_is_started(bench: Docker) -> None:
    """A node that dies between create and start leaves a container for the next delivery."""
    spec = bench.spec("exit 6")
    body = create_body(spec, bench.runtime.engine.traits)
    await ask(bench, "POST", f"containers/create?name={spec.name}", body)

    run = await bench.runtime.adopt_or_start(spec)

    assert (run.adopted, (await run.wait()).code) == (True, 6)


@pytest.mark.parametrize(
    ("script", "memory", "looks"),
    [("sleep 0.2", None, 0), ("sleep 0.2", 64 * MIB, 1), ("sleep 0.2; exit 3", None, 1)],
)
async def test_an_end_is_looked_at_only_where_events_do_not_tell_all(
    bench: Docker, monkeypatch: pytest.MonkeyPatch, script: str, memory: int | None, looks: int
) -> None:
    """A container without a limit that ended with 0 is not inspected; its times are the same."""
    looked: list[str] = []
    inspect = bench.runtime.inspect

    async def look(container: str, *, patience: float = PATIENCE) -> Inspected | None:
        looked.append(container)
        return await inspect(container, patience=patience)

    monkeypatch.setattr(bench.runtime, "inspect", look)
    await asyncio.sleep(0.7)  # half a second after the stream stands everybody looks once
    began = time.time()
    spec = msgspec.structs.replace(bench.spec(script), memory=memory)
    end = await bench.ends(spec)
    monkeypatch.undo()
    found = await bench.runtime.inspect(spec.name)

    assert found is not None
    assert len(looked) == looks
    assert end.code == found.state.exit_code
    assert began < end.started < end.finished - 0.05
    assert end.started == pytest.approx(seconds(found.state.started_at), abs=2.0)
    assert end.finished == pytest.approx(seconds(found.state.finished_at), abs=2.0)


async def test_a_strangers_container_is_left_alone(bench: Docker) -> None:
    """A container that has our name and not our labels is neither adopted nor removed."""
    spec = bench.spec("sleep 300")
    stranger = create_body(msgspec.structs.replace(spec, labels={}), bench.runtime.engine.traits)
    await ask(bench, "POST", f"containers/create?name={spec.name}", stranger)

    with pytest.raises(SpecRejected, match="not ours"):
        await bench.runtime.adopt_or_start(spec)
    await bench.runtime.remove(spec.name)

    assert await bench.runtime.find(spec.name) is None
    assert await bench.runtime.inspect(spec.name) is not None
    await ask(bench, "DELETE", f"containers/{spec.name}?force=1")


async def test_a_flood_is_bounded_and_only_its_tail_is_read(bench: Docker) -> None:
    """Of a long output the engine keeps a bounded log, and we return its last bytes."""
    spec = msgspec.structs.replace(
        bench.spec("yes 0123456789 | head -c 20000000; echo the end"), log_bytes=1_000_000
    )
    run = await bench.runtime.adopt_or_start(spec)
    await run.wait()

    logs = await run.logs(8)

    assert logs.stdout == b"the end\n"
    assert logs.stdout_size < 2_000_000


async def test_a_bad_reference_is_rejected(bench: Docker) -> None:
    """What can be no image's name is refused for good, and leaves no container."""
    spec = msgspec.structs.replace(bench.spec("true"), image="No Such/Image")

    with pytest.raises(SpecRejected):
        await bench.runtime.adopt_or_start(spec)

    assert await bench.runtime.inspect(spec.name) is None


async def test_a_mount_that_leaves_its_root_is_refused(bench: Docker, tmp_path: Path) -> None:
    """A link below a root that leads out of it is not mounted, nor is the engine's own socket."""
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").mkdir()
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "engine").symlink_to(Path(bench.runtime.engine.socket).parent)

    for name in ("link", "engine"):
        mount = Mount(source=f"{root}/{name}", target="/data", root=str(root))
        with pytest.raises(NotPermitted):
            await bench.runtime.adopt_or_start(
                msgspec.structs.replace(bench.spec("true"), mounts=(mount,))
            )


@pytest.mark.parametrize("host", ["tcp://127.0.0.1:2375", "http://127.0.0.1:2375", "ssh://host"])
async def test_an_engine_without_tls_is_refused(host: str) -> None:
    """Plain TCP would give root to everybody on the network."""
    with pytest.raises(NotPermitted):
        await DockerRuntime.open(host)


async def test_no_engine_is_told_at_once(tmp_path: Path) -> None:
    """Where nothing listens the runtime is unavailable, without waiting."""
    async with asyncio.timeout(5):
        with pytest.raises(RuntimeUnavailable):
            await DockerRuntime.open(f"unix://{tmp_path}/absent.sock")


class Proxy:
    """Stands between a runtime and its engine, and can hang up on either."""

    def __init__(self, engine: str, path: Path) -> None:
        self._engine, self._path = engine, path
        self._writers: set[asyncio.StreamWriter] = set()
        self.swallow = b""
        """The answer to the next request that holds this is lost, after the engine gave it."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, self._path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()

    def cut(self) -> None:
        """Hang up on everybody."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_unix_connection(self._engine)
        self._writers |= {writer, forth}
        await asyncio.gather(self._requests(reader, forth, back), self._pass(back, writer))
        self._writers -= {writer, forth}
        writer.close()
        forth.close()

    async def _requests(
        self,
        reader: asyncio.StreamReader,
        forth: asyncio.StreamWriter,
        back: asyncio.StreamReader,
    ) -> None:
        while data := await _some(reader):
            forth.write(data)
            if self.swallow and self.swallow in data:
                self.swallow = b""
                self._silent = back
        forth.close()

    _silent: asyncio.StreamReader | None = None

    async def _pass(self, back: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await _some(back):
            if back is self._silent:
                break
            writer.write(data)
        writer.close()


async def _some(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(65_536)
    except ConnectionError:
        return b""


@pytest.fixture
async def proxy(bench: Docker, tmp_path: Path) -> AsyncIterator[Proxy]:
    """Return a proxy to the bench's engine, at `proxy.sock`."""
    async with Proxy(bench.runtime.engine.socket, tmp_path / "proxy.sock") as made:
        yield made


async def test_the_stream_of_events_may_break(bench: Docker, proxy: Proxy, tmp_path: Path) -> None:
    """Connections are cut while a container runs: its exit is found all the same, and soon."""
    runtime = await DockerRuntime.open(f"unix://{tmp_path}/proxy.sock")
    run = await runtime.adopt_or_start(bench.spec("while [ ! -e go ]; do sleep 0.1; done; exit 8"))
    waiting = asyncio.create_task(run.wait())
    await asyncio.sleep(0)
    proxy.cut()
    (tmp_path / "work" / "go").touch()

    async with asyncio.timeout(10):
        end = await waiting
    await runtime.close()

    assert (end.code, end.lost) == (8, False)


@pytest.mark.parametrize("request_line", [b"POST /v1.41/containers/create", b"/start"])
async def test_an_answer_that_is_lost_starts_nothing_twice(
    bench: Docker, proxy: Proxy, tmp_path: Path, request_line: bytes
) -> None:
    """The engine did it and the answer is lost: asked again, the container is found."""
    runtime = await DockerRuntime.open(f"unix://{tmp_path}/proxy.sock")
    proxy.swallow = request_line

    run = await runtime.adopt_or_start(bench.spec("echo ran >> witness"))
    end = await run.wait()
    await runtime.close()

    assert proxy.swallow == b""
    assert end.code == 0
    assert (tmp_path / "work" / "witness").read_text() == "ran\n"
    assert len(await bench.runtime.stray({"sbx.topology": bench.topology})) == 1


async def test_open_descriptors_do_not_grow(bench: Docker) -> None:
    """Runs that were removed leave nothing open in the node."""
    for _ in range(3):
        await bench.ends(bench.spec("true"))
        await bench.runtime.remove(bench.spec("true").name)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(5):
        run = await bench.runtime.adopt_or_start(bench.spec("echo x"))
        await run.wait()
        await run.logs(10)
        await bench.runtime.remove(run.name)

    assert len(os.listdir("/proc/self/fd")) <= before + 1  # noqa: PTH208
