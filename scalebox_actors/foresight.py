"""The done-records of messages at hand, asked for as soon as they come.

The answer takes as long as the server needs to sync what others write: where runs are short, as
long as the run. A message that waits for a slot need not wait for that, too. Messages come several
at a time, so one question asks for all of their records.
"""

import asyncio

from scalebox_actors.errors import SbxError
from scalebox_actors.ports import Broker, Delivery, Stored

FRESH = 0.5
"""Seconds after which an answer is asked for again: the task may have ended meanwhile."""
MOST = 256
"""From so many answers on those that are too old are let go."""
TOGETHER = 64
"""So many records are asked for with one question."""

Look = asyncio.Future[Stored | None]


class Foresight:
    """Reads done-records of one module's messages, ahead where it can."""

    def __init__(self, broker: Broker, module: str) -> None:
        self._broker, self._module = broker, module
        self._looks: dict[str, tuple[float, Look]] = {}
        self._coming: dict[str, Look] = {}
        """Those of this turn of the loop, by subject: nobody has asked for them yet."""
        self._asking: set[asyncio.Task[None]] = set()

    def look(self, delivery: Delivery) -> None:
        """Begin to read the record of a message that has come."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if len(self._looks) >= MOST:  # not every message that waits gets its slot here
            self._looks = {key: seen for key, seen in self._looks.items() if now - seen[0] < FRESH}
        subject = self._subject(delivery.message_id)
        if subject not in self._coming:
            if not self._coming:
                loop.call_soon(self._ask)
            self._coming[subject] = loop.create_future()
        self._looks[delivery.message_id] = (now, self._coming[subject])
        if len(self._coming) >= TOGETHER:
            self._ask()

    def forget(self, message_id: str) -> None:
        """Ask again for a message whose task may have ended since: a twin of it may wait."""
        self._looks.pop(message_id, None)

    async def record(self, delivery: Delivery) -> Stored | None:
        """Return the done-record of a message, or None if its task has not ended."""
        began, look = self._looks.pop(delivery.message_id, (0.0, None))
        if look is not None and asyncio.get_running_loop().time() - began < FRESH:
            try:
                return await asyncio.shield(look)
            except SbxError:
                pass  # asked once more, and whoever waits for the answer hears of it
        return await self._broker.read(self._subject(delivery.message_id))

    def _ask(self) -> None:
        coming, self._coming = self._coming, {}
        if coming:
            asking = asyncio.get_running_loop().create_task(self._answer(coming))
            self._asking.add(asking)
            asking.add_done_callback(self._asking.discard)

    async def _answer(self, looks: dict[str, Look]) -> None:
        try:
            found = {one.subject: one for one in await self._broker.read_last(list(looks))}
        except asyncio.CancelledError:
            for look in looks.values():
                look.cancel()
            raise
        except BaseException as error:  # noqa: BLE001 - whoever waits for the answer hears of it
            for look in looks.values():
                look.set_exception(error)
                look.exception()  # perhaps nobody waits, and that is no fault
        else:
            for subject, look in looks.items():
                look.set_result(found.get(subject))

    def _subject(self, message_id: str) -> str:
        return self._broker.names.done(self._module, message_id)
