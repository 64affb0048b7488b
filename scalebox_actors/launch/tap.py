"""A tap: the node's end of the pipe into which the programs of a slot print.

It is read while a program runs and only then, so what prints between two runs waits. Of what comes
a bounded part is kept and all of it is counted.
"""

import asyncio
import os
from pathlib import Path
from typing import Self

_PIECE = 64 * 1024
_PIECES_AT_ONCE = 8
"""More than a pipe holds: a program that has ended can have left no more behind."""


class Tap:
    """Reads one output; see `begin` and `take`."""

    def __init__(self, end: int, most: int, *, keep_end: bool) -> None:
        self._end, self._most, self._keep_end = end, most, keep_end
        self._loop = asyncio.get_running_loop()
        self._kept = bytearray()
        self._size = 0
        self._closed = False

    @classmethod
    def make(cls, path: Path, most: int, *, keep_end: bool) -> Self:
        """Make a pipe and open it; `most` bytes are kept, the last ones or the first."""
        os.mkfifo(path)
        path.chmod(0o666)  # any image user; the folder's parent is ours alone
        flags = os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        return cls(os.open(path, flags), most, keep_end=keep_end)

    def begin(self) -> None:
        """Forget what came before, and listen."""
        self._drain()
        self._kept.clear()
        self._size = 0
        if not self._closed:
            self._loop.add_reader(self._end, self._read)

    def take(self) -> tuple[bytes, int]:
        """Listen no longer; return what was kept, and how much came in all."""
        self._drain()
        if not self._closed:
            self._loop.remove_reader(self._end)
        kept = self._kept[max(0, len(self._kept) - self._most) :]
        return bytes(kept), self._size

    def close(self) -> None:
        """Let go of the pipe; a program that still prints is told by a signal."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._end)
            os.close(self._end)

    def _drain(self) -> None:
        for _ in range(_PIECES_AT_ONCE):
            if self._closed or not self._read():
                return

    def _read(self) -> bool:
        """Take a piece; False if there is none."""
        try:
            piece = os.read(self._end, _PIECE)
        except BlockingIOError:
            return False
        self._size += len(piece)
        if self._keep_end:
            self._kept += piece
            if len(self._kept) > 2 * self._most + _PIECE:
                del self._kept[: len(self._kept) - self._most]
        else:
            self._kept += piece[: max(0, self._most - len(self._kept))]
        return True
