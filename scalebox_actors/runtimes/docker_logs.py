"""The ends of a container's two outputs, out of the engine's framed stream."""

import struct

from scalebox_actors.ports import Logs

HEADER = struct.Struct(">BxxxL")
STDERR = 2


class Tail:
    """The last bytes of what was fed, and their number in all."""

    def __init__(self, most: int) -> None:
        self._most, self._kept, self.size = most, bytearray(), 0

    def feed(self, data: bytes) -> None:
        """Take more."""
        self.size += len(data)
        self._kept += data
        if len(self._kept) > 2 * self._most + 65_536:
            self._trim()

    def _trim(self) -> None:
        del self._kept[: max(0, len(self._kept) - self._most)]

    @property
    def kept(self) -> bytes:
        """The last bytes."""
        self._trim()
        return bytes(self._kept)


class Frames:
    """Splits the stream into its outputs: eight bytes of header, then so many of one output."""

    def __init__(self, most: int) -> None:
        self.stdout, self.stderr = Tail(most), Tail(most)
        self._unread = bytearray()
        self._tail, self._left = self.stdout, 0

    def feed(self, data: bytes) -> None:
        """Take a piece of the stream, cut anywhere."""
        self._unread += data
        begin = 0
        while begin < len(self._unread):
            if self._left:
                piece = bytes(self._unread[begin : begin + self._left])
                self._tail.feed(piece)
                begin += len(piece)
                self._left -= len(piece)
            elif len(self._unread) - begin >= HEADER.size:
                stream, self._left = HEADER.unpack_from(self._unread, begin)
                self._tail = self.stderr if stream == STDERR else self.stdout
                begin += HEADER.size
            else:
                break
        del self._unread[:begin]

    @property
    def logs(self) -> Logs:
        """What was kept."""
        return Logs(
            stdout=self.stdout.kept,
            stderr=self.stderr.kept,
            stdout_size=self.stdout.size,
            stderr_size=self.stderr.size,
        )
