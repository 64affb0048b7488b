"""The done-records of messages at hand, asked for as soon as they come.

The answer takes as long as the server needs to sync what others write: where runs are short, as
long as the run. A message that waits for a slot need not wait for that, too.
"""

import asyncio

from scalebox_actors.errors import SbxError
from scalebox_actors.ports import Broker, Delivery, Stored

FRESH = 0.5
"""Seconds after which an answer is asked for again: the task may have ended meanwhile."""
MOST = 256
"""From so many answers on those that are too old are let go."""


class Foresight:
    """Reads done-records of one module's messages, ahead where it can."""

    def __init__(self, broker: Broker, module: str) -> None:
        self._broker, self._module = broker, module
        self._looks: dict[str, tuple[float, asyncio.Task[Stored | None]]] = {}

    def look(self, delivery: Delivery) -> None:
        """Begin to read the record of a message that has come."""
        now = asyncio.get_running_loop().time()
        if len(self._looks) >= MOST:  # not every message that waits gets its slot here
            self._looks = {key: seen for key, seen in self._looks.items() if now - seen[0] < FRESH}
        look = asyncio.create_task(self._read(delivery.message_id))
        look.add_done_callback(_retrieve)
        self._looks[delivery.message_id] = (now, look)

    def forget(self, message_id: str) -> None:
        """Ask again for a message whose task may have ended since: a twin of it may wait."""
        self._looks.pop(message_id, None)

    async def record(self, delivery: Delivery) -> Stored | None:
        """Return the done-record of a message, or None if its task has not ended."""
        began, look = self._looks.pop(delivery.message_id, (0.0, None))
        if look is not None and asyncio.get_running_loop().time() - began < FRESH:
            try:
                return await look
            except SbxError:
                pass  # asked once more, and whoever waits for the answer hears of it
        return await self._read(delivery.message_id)

    async def _read(self, message_id: str) -> Stored | None:
        return await self._broker.read(self._broker.names.done(self._module, message_id))


def _retrieve(look: "asyncio.Task[Stored | None]") -> None:
    """Take note of an error that nobody waits for."""
    if not look.cancelled():
        look.exception()
