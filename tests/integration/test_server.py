"""The embedded nats-server, with a real one."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from scalebox_actors import server as embedded
from scalebox_actors.broker import connect
from scalebox_actors.errors import Unavailable
from scalebox_actors.limits import MIB
from scalebox_actors.lockfile import is_held
from scalebox_actors.server import EmbeddedServer, Settings, configuration, find_binary, running

pytestmark = pytest.mark.integration

READY_SECONDS = 1.0
GONE_SECONDS = 5.0


def until(condition: Callable[[], bool], seconds: float = GONE_SECONDS) -> bool:
    """Whether a condition comes true in time."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def owner(store: Path) -> subprocess.Popen[str]:
    """Start another process that runs a server on `store` and prints its pid."""
    program = """
        import sys, time
        from pathlib import Path
        from scalebox_actors.server import EmbeddedServer
        server = EmbeddedServer(Path(sys.argv[1]))
        server.start()
        print(server.pid, flush=True)
        time.sleep(60)
    """
    return subprocess.Popen(  # noqa: S603 - this Python with the program above
        [sys.executable, "-c", textwrap.dedent(program), str(store)],
        stdout=subprocess.PIPE,
        text=True,
    )


def first_line(process: subprocess.Popen[str]) -> str:
    """The first line that a process prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_every_write_is_synced(tmp_path: Path) -> None:
    """The shipped configuration says `always`; only a server without a store may not."""
    durable = configuration(tmp_path, Settings())

    assert "sync_interval: always\n" in durable
    assert "sync_interval" not in configuration(tmp_path, Settings(durable=False))
    assert EmbeddedServer(tmp_path).settings.durable


def test_the_configuration_says_who_and_how_much(tmp_path: Path) -> None:
    """Site, port, sizes, pings and the store stand in the configuration."""
    settings = Settings(site="b", port=4333, max_file=7 * MIB)
    text = configuration(tmp_path / 'odd "name', settings)

    for line in (
        'server_name: "sbx-b"',
        "port: 4333",
        'host: "127.0.0.1"',
        'domain: "b"',
        "max_file: 7340032",
        "max_payload: 1048576",
        'ping_interval: "5s"',
        "ping_max: 2",
        f'store_dir: "{tmp_path}/odd \\"name/js"',
    ):
        assert line in text


def test_the_server_accepts_its_configuration(tmp_path: Path) -> None:
    """nats-server itself finds nothing wrong, also with an odd path."""
    store = tmp_path / 'odd "name'
    store.mkdir()
    config = tmp_path / "nats.conf"
    config.write_text(configuration(store, Settings()))

    checked = subprocess.run(  # noqa: S603 - our own binary
        [find_binary(), "-t", "-c", str(config)], capture_output=True, text=True, check=False
    )

    assert checked.returncode == 0, checked.stderr


async def test_it_is_ready_in_well_under_a_second(tmp_path: Path) -> None:
    """After `start` returns, clients and JetStream are served."""
    begun = time.monotonic()
    with EmbeddedServer(tmp_path / "store") as server:
        taken = time.monotonic() - begun
        link = await connect(server.url, name="test", events=lambda *_: None)
        account = await link.api("INFO")
        await link.close()

    assert taken < READY_SECONDS
    assert account["domain"] == "local"


def test_commands_find_a_running_server(tmp_path: Path) -> None:
    """`running` gives the URL as long as the server runs, and None before and after."""
    store = tmp_path / "store"
    before = running(store)
    server = EmbeddedServer(store)
    url = server.start()
    during = running(store)
    server.stop()

    assert (before, during, running(store)) == (None, url, None)


def test_it_comes_back_at_the_same_address(tmp_path: Path) -> None:
    """A restart keeps the port, so that clients find it; `start` is safe to repeat."""
    server = EmbeddedServer(tmp_path / "store")
    first = server.start()
    assert server.start() == first
    os.kill(server.pid, signal.SIGKILL)
    assert until(lambda: not server.alive)

    second = server.start()
    server.stop()
    server.stop()

    assert second == first


def test_a_taken_port_is_replaced(tmp_path: Path) -> None:
    """If somebody else has the remembered port by now, another one is used."""
    with EmbeddedServer(tmp_path / "one") as one:
        (tmp_path / "two").mkdir()
        (tmp_path / "two" / "url").write_text(one.url)
        with EmbeddedServer(tmp_path / "two") as two:
            assert two.url not in ("", one.url)


def test_two_servers_cannot_share_a_store(tmp_path: Path) -> None:
    """The second is refused with a sentence that names the store and the process."""
    with EmbeddedServer(tmp_path) as server, pytest.raises(Unavailable) as caught:
        EmbeddedServer(tmp_path).start()

    assert str(tmp_path) in str(caught.value)
    assert f"process {os.getpid()}" in str(caught.value)
    assert server.url


def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    """A parent killed by SIGKILL takes its server along, and the store is free at once."""
    with owner(tmp_path / "store") as parent:
        pid = int(first_line(parent))
        was_alive = alive(pid)
        parent.kill()

    assert was_alive
    with EmbeddedServer(tmp_path / "store") as successor:
        assert not alive(pid)
        assert successor.alive


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    """The last words of nats-server are in the error."""
    (tmp_path / "js").write_text("in the way")

    with pytest.raises(Unavailable, match="did not start") as caught:
        EmbeddedServer(tmp_path).start()

    assert "storage directory is not a directory" in str(caught.value)
    assert running(tmp_path) is None


def test_what_it_says_is_of_this_start(tmp_path: Path) -> None:
    """An error of the configuration is quoted, and nothing that an earlier start has logged."""
    (tmp_path / "nats.log").write_text("[1] 2026/11/26 [FTL] an old trouble\n")

    with pytest.raises(Unavailable, match="did not start") as caught:
        EmbeddedServer(tmp_path, None, lambda _: 'listen: "nowhere"\n').start()

    assert "nowhere" in str(caught.value)
    assert "an old trouble" not in str(caught.value)


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A nats-server that needs a while before it serves, and the file that counts its starts."""
    starts, program, real = tmp_path / "starts", tmp_path / "slow", find_binary()
    program.write_text(
        f"#!{sys.executable} -ISE\n"
        "import os, sys, time\n"
        f"os.write(os.open({str(starts)!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "
        "b'%d\\n' % os.getpid())\n"
        "time.sleep(float(os.environ.get('SLOW', '1')))\n"
        f"os.execv({real!r}, [{real!r}, *sys.argv[1:]])\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(embedded, "find_binary", lambda: str(program))
    monkeypatch.setattr(embedded, "_TELL", 0.2)
    return starts


def count(starts: Path) -> int:
    """How often it was started."""
    return len(starts.read_text().split()) if starts.exists() else 0


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_store_that_is_restored_is_waited_for(
    tmp_path: Path, slow: Path, caplog: pytest.LogCaptureFixture, asynchronous: bool
) -> None:
    """However long it takes: the server is not ended and started again, and people are told."""
    server = EmbeddedServer(tmp_path / "store")
    url = await server.begin() if asynchronous else server.start()
    server.stop()

    assert url.startswith("nats://127.0.0.1:")
    assert count(slow) == 1
    assert "store_restoring" in caplog.messages


async def test_waiting_for_a_store_can_be_given_up(
    tmp_path: Path, slow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C meanwhile ends what was started, and lets go of the store."""
    monkeypatch.setenv("SLOW", "60")
    server = EmbeddedServer(tmp_path / "store")
    beginning = asyncio.create_task(server.begin())
    while not count(slow):  # noqa: ASYNC110 - it is another process
        await asyncio.sleep(0.01)
    beginning.cancel()
    await asyncio.wait({beginning})

    assert beginning.cancelled()
    assert not server.alive
    assert not is_held(tmp_path / "store" / "lock")


def test_a_server_that_does_nothing_is_given_up(
    tmp_path: Path, slow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that neither logs nor computes restores nothing; a second one is not tried."""
    monkeypatch.setenv("SLOW", "60")
    monkeypatch.setattr(embedded, "SERVER_SILENCE", 0.3)

    with pytest.raises(Unavailable, match="it did nothing for"):
        EmbeddedServer(tmp_path / "store").start()

    assert count(slow) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_ends_while_its_store_is_restored(
    tmp_path: Path, slow: Path, number: signal.Signals
) -> None:
    """`sbx-actor server` that is told to stop does not wait for what it would then end."""
    (tmp_path / "t.yaml").write_text("topology: t\nmodules:\n  m: {function: 'f:m'}\n")
    program = (
        "import sys\nfrom scalebox_actors import cli, server\n"
        "server.find_binary = lambda: sys.argv[1]\nsys.exit(cli.main(sys.argv[2:]))\n"
    )
    words = ["server", str(tmp_path / "t.yaml"), "--store", str(tmp_path / "store")]
    command = [sys.executable, "-c", program, str(slow.with_name("slow")), *words]
    environment = {**os.environ, "SLOW": "60"}
    with subprocess.Popen(command, env=environment) as process:  # noqa: S603 - see above
        assert until(lambda: count(slow) == 1, 15)
        process.send_signal(number)
        code = process.wait(GONE_SECONDS)

    assert code == 0
    assert until(lambda: not alive(int(slow.read_text())))


async def test_an_unexpected_end_is_noticed(tmp_path: Path) -> None:
    """`wait` returns when the process is gone, with the signal that ended it."""
    with EmbeddedServer(tmp_path) as server:
        waiting = asyncio.create_task(server.wait())
        await asyncio.sleep(0)
        os.kill(server.pid, signal.SIGKILL)

        assert await asyncio.wait_for(waiting, 5) == -signal.SIGKILL
        assert not server.alive


def test_an_ephemeral_store_leaves_nothing() -> None:
    """Without a store the data are temporary and gone afterwards."""
    server = EmbeddedServer()
    server.start()
    there = server.store.exists()
    server.stop()

    assert there
    assert not server.store.exists()
