"""Named pipes: how a node talks with a program that lives longer than one message.

A folder on the host holds two pipes, `in` and `out`; it is mounted into the container, where a
program, or the shell before it, opens them by name. So every runtime can do it: none needs a way
to attach. The node makes and opens both before the container starts and never opens them again,
so what a program does to its folder is of no use to it.

Both ends are opened for reading and writing: opening never waits for the other side, and a side
that dies leaves the pipe as it was. That a program has ended is heard of from its runtime.
"""

import asyncio
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Self

from scalebox_actors.errors import Transient

IN, OUT = "in", "out"
"""The names of the pipes as the program sees them: it reads from `in` and writes to `out`."""
_PIECE = 64 * 1024
_PIECES = 64
"""More than a pipe may hold: what is still written behind that is nobody's answer."""
_FLAGS = os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


class PipeClosed(Transient):
    """The pipes are closed: the container that was to be told something is gone."""


class Pipes:
    """The node's ends of the two pipes in a folder; lines go in whole and come out whole."""

    def __init__(self, to_program: int, from_program: int, longest: int) -> None:
        self._to, self._from = to_program, from_program
        self._longest = longest
        self._loop = asyncio.get_running_loop()
        self._unsaid = bytearray()
        self._flushing: asyncio.Handle | None = None
        self._blocked = False
        self._said: asyncio.Future[None] | None = None
        self._begun = bytearray()
        self._skipping = False
        self._take: Callable[[bytes | None], None] | None = None
        self._listening = False
        self._deaf = False
        self._closed = False

    @classmethod
    def make(cls, folder: Path, *, longest: int) -> Self:
        """Make and open the pipes of a folder, which must exist; old ones are made anew.

        A line from the program may have at most `longest` bytes.
        """
        ends = []
        for name in (IN, OUT):
            path = folder / name
            path.unlink(missing_ok=True)
            os.mkfifo(path)
            path.chmod(0o666)  # any image user; the folder's parent is ours alone
            end = os.open(path, _FLAGS)
            if not stat.S_ISFIFO(os.fstat(end).st_mode):
                raise OSError(f"{path} is no pipe")
            ends.append(end)
        return cls(ends[0], ends[1], longest)

    def listen(self, take: Callable[[bytes | None], None]) -> None:
        """Call `take` with every line, without its end; None stands for one that was too long.

        Raises PipeClosed if the pipes are closed: their numbers may be somebody else's by now.
        """
        if self._closed:
            raise PipeClosed
        self._take = take
        self._listening = True
        self._loop.add_reader(self._from, self._read)

    async def say(self, data: bytes) -> None:
        """Write bytes, whole, after what others are writing; waits while the pipe is full.

        Raises PipeClosed if the pipes are closed, also while it waits. Cancelled while it waits,
        what it had to say is said all the same: half a line is never left behind.
        """
        if self._deaf:
            raise PipeClosed
        self._unsaid += data
        self._flush()
        while self._unsaid:
            if self._said is None or self._said.done():
                self._said = self._loop.create_future()
            await asyncio.shield(self._said)
            if self._deaf:
                raise PipeClosed

    def post(self, data: bytes) -> None:
        """Have bytes written, whole and in their turn, without waiting: for whoever bounds them.

        The first goes out at once, what follows in the same turn of the loop together. Raises
        PipeClosed.
        """
        if self._deaf:
            raise PipeClosed
        self._unsaid += data
        if self._flushing is None and not self._blocked:
            self._flush()
            self._flushing = self._loop.call_soon(self._flush)

    def hang_up(self) -> None:
        """Say nothing more: the program reads the end of its input. It is still listened to."""
        if self._deaf:
            return
        self._deaf = True
        if self._blocked:
            self._loop.remove_writer(self._to)
        if self._flushing is not None:
            self._flushing.cancel()
        self._unsaid.clear()
        os.close(self._to)
        self._tell_said()

    def drain(self) -> None:
        """Take what a program that has ended left in its pipe, up to the end of its last line."""
        for _ in range(_PIECES):
            if self._closed or not self._read():
                return

    def close(self) -> None:
        """Let go of both pipes; whoever waits to write is told."""
        if self._closed:
            return
        self._closed = True
        self.hang_up()
        if self._listening:
            self._loop.remove_reader(self._from)
        os.close(self._from)

    def _flush(self) -> None:
        """Write what the pipe takes now; the rest when it has room."""
        self._flushing = None
        try:
            while self._unsaid:
                del self._unsaid[: os.write(self._to, self._unsaid)]
        except BlockingIOError:
            if not self._blocked:
                self._blocked = True
                self._loop.add_writer(self._to, self._flush)
            return
        if self._blocked:
            self._blocked = False
            self._loop.remove_writer(self._to)
        self._tell_said()

    def _tell_said(self) -> None:
        if self._said is not None and not self._said.done():
            self._said.set_result(None)

    def _read(self) -> bool:
        """Take a piece of what the program wrote; False if there is nothing now."""
        try:
            piece = os.read(self._from, _PIECE)
        except BlockingIOError:
            return False
        *ended, begun = piece.split(b"\n")
        for part in ended:
            self._end_line(part)
        if not self._skipping:
            self._begun += begun
            if len(self._begun) > self._longest:
                self._begun.clear()
                self._skipping = True
        return True

    def _end_line(self, part: bytes) -> None:
        line: bytes | None = bytes(self._begun) + part
        if self._skipping or len(line or b"") > self._longest:
            line = None
        self._begun.clear()
        self._skipping = False
        if self._take is not None and not self._closed:
            self._take(line)
