"""The node's end of the line to its shepherd: finding or starting it, asking, hearing news."""

import asyncio
import contextlib
import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import cast

import msgspec

from scalebox_actors.errors import NotPermitted, RuntimeUnavailable
from scalebox_actors.limits import ENGINE_CALL
from scalebox_actors.runtimes import shepherd_main
from scalebox_actors.runtimes.shepherd_program import PID

ADDRESS_BYTES = 107
LOG_BYTES = 1024 * 1024
"""A log of a shepherd that is longer begins anew."""
_encode = msgspec.json.Encoder().encode
MAIN, SOCKET = shepherd_main.__name__, shepherd_main.SOCKET
PACKAGE_ROOT = Path(shepherd_main.__file__).parents[2]


class End(msgspec.Struct, frozen=True, kw_only=True):
    """How a program ended, as the shepherd tells it."""

    code: int
    lost: bool = False
    not_started: bool = False
    out_of_memory: bool = False
    started: float = 0.0
    finished: float = 0.0
    detail: str = ""
    cpu_seconds: float | None = None
    memory_peak: int | None = None
    io_read_bytes: int | None = None
    io_write_bytes: int | None = None
    stdout_size: int = 0
    stderr_size: int = 0


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """One run as the shepherd tells it."""

    name: str
    id: str
    labels: Mapping[str, str] = {}
    """Not in news."""
    exit: End | None = None
    waits: bool = False
    """For its turn: its lane is full."""
    started: float = 0.0


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One line from the shepherd; `n` is the question's number, 0 for news."""

    n: int
    run: Told | None = None
    runs: tuple[Told, ...] = ()
    adopted: bool = False
    error: str = ""
    again: bool = False
    lanes: bool = False
    """Whether it knows of lanes; older ones do not."""


class Link(asyncio.Protocol):
    """A connection to the shepherd: numbered questions, and news in between."""

    def __init__(self, note: Callable[[Answer], None], cut: Callable[[], None]) -> None:
        self._note, self._cut = note, cut
        self._decode = msgspec.json.Decoder(Answer).decode
        self._asked: dict[int, asyncio.Future[Answer]] = {}
        self._number = 0
        self._unread = bytearray()
        self._transport: asyncio.Transport | None = None

    @property
    def alive(self) -> bool:
        """Whether questions can be asked."""
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Read whole lines; what they say is noted before anybody who waits is woken."""
        self._unread += data
        *lines, rest = self._unread.split(b"\n")
        self._unread = bytearray(rest)
        for line in lines:
            answer = self._decode(line)
            self._note(answer)
            waiting = self._asked.pop(answer.n, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let every question fail, so that it is asked again."""
        self._transport = None
        for waiting in self._asked.values():
            if not waiting.done():
                waiting.set_exception(ConnectionResetError(str(exc or "the shepherd has gone")))
        self._asked.clear()
        self._cut()

    async def ask(self, question: Mapping[str, object]) -> Answer:
        """Ask one question; raises ConnectionError if the answer was lost."""
        if self._transport is None:
            raise ConnectionResetError("the shepherd has gone")
        self._number += 1
        number = self._number
        line = _line({"n": number, **question})
        self._asked[number] = asyncio.get_running_loop().create_future()
        self._transport.write(line)
        try:
            return await self._asked[number]
        finally:
            self._asked.pop(number, None)

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()


def _line(question: Mapping[str, object]) -> bytes:
    try:
        return _encode(question) + b"\n"
    except UnicodeEncodeError:  # an argument holds bytes that are no text
        return json.dumps(msgspec.to_builtins(question)).encode() + b"\n"


async def find_shepherd(state: Path, new: Callable[[], Link]) -> Link | None:
    """Connect to the shepherd of a state directory; None if it has none.

    It listens in there, or where that cannot be, and older ones did always, in a directory of this
    user's environment.
    """
    loop = asyncio.get_running_loop()
    folder = os.open(state, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for address in _addresses(state, folder):
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                _, link = await loop.create_unix_connection(new, address)
                return link
    finally:
        os.close(folder)
    return None


def _addresses(state: Path, folder: int) -> Iterator[str]:
    yield f"/proc/self/fd/{folder}/{SOCKET}"  # an address has 107 bytes at most
    if address := _elsewhere(state):
        yield address


def start_shepherd(state: Path, kind: str = "") -> None:
    """Start a shepherd unless one starts at this moment; returns when it listens.

    `subprocess` and not the event loop: uvloop would fork the whole node. It is a session of its
    own, so that neither the node's end nor a Ctrl-C reaches it. What the one before said when it
    crashed stays in the log. Raises RuntimeUnavailable with the reason.
    """
    with (state / "shepherd.log").open("ab+") as printed:
        if printed.tell() > LOG_BYTES:
            printed.truncate(0)
        before = printed.seek(0, os.SEEK_END)
        try:
            done = subprocess.run(  # noqa: S603 - our own file, our own arguments
                [sys.executable, "-E", "-s", "-S", "-m", MAIN, str(state), _elsewhere(state), kind],
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                start_new_session=True,
                cwd=PACKAGE_ROOT,
                check=False,
                timeout=ENGINE_CALL,
            )
        except subprocess.TimeoutExpired:
            raise RuntimeUnavailable(f"it does not listen after {ENGINE_CALL:.0f} s") from None
        if done.returncode != 0:
            printed.seek(before)
            said = printed.read().decode("utf-8", "replace").split("\n")
            last = next((line for line in reversed(said) if line.strip()), "")
            raise RuntimeUnavailable(f"it does not start: {last or done.returncode}")


def end_shepherd(state: Path) -> None:
    """End the shepherd of a state directory that nobody needs any more, and return when it is gone.

    Whatever runs there is left to itself.
    """
    with contextlib.suppress(OSError, ValueError):
        process = os.pidfd_open(int((state / PID).read_text()))
        try:
            signal.pidfd_send_signal(process, signal.SIGTERM)
            select.select([process], [], [], ENGINE_CALL)
        finally:
            os.close(process)


def own_directory() -> Path:
    """Return a directory that only this user can write to, made if need be."""
    user = os.getuid()
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or f"{tempfile.gettempdir()}/sbx-{user}")
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = base.lstat()
    if found.st_uid != user or found.st_mode & 0o022 or base.is_symlink():
        raise NotPermitted(f"{base} must belong to this user and be writable by no one else")
    return base


def _elsewhere(state: Path) -> str:
    """Return the other address of a shepherd, in a directory that only this user can enter.

    Empty where there is no such directory: nobody needs it whose state directory takes a socket.
    """
    try:
        base = own_directory()
    except (NotPermitted, OSError):
        return ""
    address = str(base / f"sbx-{hashlib.sha256(os.fsencode(state.resolve())).hexdigest()[:16]}")
    return address if len(os.fsencode(address)) <= ADDRESS_BYTES else ""
