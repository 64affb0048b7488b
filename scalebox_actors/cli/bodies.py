"""Which bodies `send` sends: arguments, a whole file, or the lines of standard input."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import BinaryIO

from scalebox_actors.errors import BadInput

CHUNK = 256 * 1024
CHUNKS_AHEAD = 4
"""So many chunks of standard input are read ahead of what was stored; then reading waits."""


def file_body(path: str, limit: int) -> bytes:
    """Return a whole file as one body; one over the limit is refused without reading it all."""
    try:
        with Path(path).open("rb") as file:
            body = file.read(limit + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInput(f"cannot be read: {reason}", path=path) from None
    if len(body) > limit:
        raise BadInput(f"over {limit} bytes, the most that a body may have", path=path)
    return body


class Splitter:
    """Cuts a stream of bytes into lines, ended by LF or CR LF; empty ones are skipped."""

    def __init__(self, limit: int, source: str = "standard input") -> None:
        self.number = 0
        self._rest = b""
        self._limit = limit
        self._source = source

    def feed(self, chunk: bytes) -> Iterator[tuple[int, bytes]]:
        """Return the lines that `chunk` completes, each with its number from 1."""
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        for text in whole:
            self.number += 1
            body = text.removesuffix(b"\r")
            if len(body) > self._limit:
                self._refuse(self.number)
            if body:
                yield self.number, body
        if len(self._rest) > self._limit + 1:  # one more: it may be a carriage return
            self._refuse(self.number + 1)

    def end(self) -> Iterator[tuple[int, bytes]]:
        """Return the last line, if no line break ended it."""
        return self.feed(b"\n") if self._rest else iter(())

    def _refuse(self, number: int) -> None:
        raise BadInput(
            f"over {self._limit} bytes, the most that a body may have",
            path=self._source,
            line=number,
        )


async def stdin_chunks() -> AsyncIterator[bytes]:
    """Return what comes in on standard input, as it comes.

    The thread that reads is a daemon: a terminal that nobody types into ends no program.
    """
    if sys.stdin is None:
        raise BadInput("standard input is closed; it was to give one message per line")
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[bytes | OSError] = asyncio.Queue()
    room = threading.Semaphore(CHUNKS_AHEAD)
    source = sys.stdin.buffer
    args = (source, loop, queue, room)
    threading.Thread(target=_read_on, args=args, daemon=True).start()
    while True:
        chunk = await queue.get()
        if isinstance(chunk, OSError):
            raise BadInput(f"standard input cannot be read: {chunk.strerror or chunk}")
        if not chunk:
            return
        yield chunk
        room.release()


def _read_on(
    source: BinaryIO,
    loop: asyncio.AbstractEventLoop,
    queue: "asyncio.Queue[bytes | OSError]",
    room: threading.Semaphore,
) -> None:
    chunk: bytes | OSError = b"."
    while chunk and not isinstance(chunk, OSError):
        room.acquire()
        try:
            chunk = source.read1(CHUNK) if hasattr(source, "read1") else source.read(CHUNK)
        except OSError as error:
            chunk = error
        try:
            loop.call_soon_threadsafe(queue.put_nowait, chunk)
        except RuntimeError:  # the loop has ended; nobody wants more
            return
