"""Commands on their way to the server, written together: a write to the socket is what costs."""

import asyncio
from collections.abc import Callable

LINGER = 0.001
"""Seconds that a command waits for company, if nothing hurries."""
COMPANY = 8
"""So many wait for no more."""


class Outbox:
    """Collects commands and hands them on in one piece."""

    def __init__(self, send: Callable[[bytes], bool], lost: Callable[[], None]) -> None:
        self._send, self._lost = send, lost
        self._loop = asyncio.get_running_loop()
        self._commands: list[bytes] = []
        self._flushing: asyncio.Handle | None = None
        self._lingers = False

    def post(self, command: bytes, *, soon: bool) -> None:
        """Send a command, `soon` with all others of this turn of the loop, else a moment later."""
        self._commands.append(command)
        hurries = soon or len(self._commands) >= COMPANY
        if self._flushing is None and not hurries:
            self._lingers = True
            self._flushing = self._loop.call_later(LINGER, self.flush)
        elif self._flushing is None or (self._lingers and hurries):
            self._stop()
            self._flushing = self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send everything now."""
        self._stop()
        commands, self._commands = self._commands, []
        if commands and not self._send(b"".join(commands)):
            self._lost()

    def _stop(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
        self._flushing, self._lingers = None, False
