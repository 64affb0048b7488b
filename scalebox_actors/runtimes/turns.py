"""A few at once, and nobody waits for ever."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """Lets callers do something in turn: that is quicker for all of them, and no promise."""

    def __init__(self, at_once: int, patience: float) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._patience = patience

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, but no longer than `patience`: those before may be stuck."""
        came = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                came = await self._free.acquire()
        try:
            yield
        finally:
            if came:
                self._free.release()
