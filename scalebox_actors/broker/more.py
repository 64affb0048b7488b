"""A pull that does not wait: what lies in the stream now, for a slot that takes several at once."""

import asyncio
import contextlib
import re
from collections.abc import Callable

from scalebox_actors.broker.delivery import GIVE_BACK
from scalebox_actors.broker.link import Link
from scalebox_actors.broker.wire import command

PATIENCE = 1.0
"""The answer is a round trip away; without one a slot makes do with what it has."""
_ACK = b"$JS.ACK."

Take = Callable[[bytes, bytes, bytes, bytes | None], None]


class More:
    """One pull of at most `most` messages; see `gather`."""

    def __init__(self, link: Link, subject: str, acks: re.Pattern[bytes], most: int) -> None:
        self._link, self._subject, self._left = link, subject, most
        self._acks = acks
        self._most = most
        self._over = asyncio.Event()
        self._take: Take | None = None

    async def gather(self, take: Take) -> None:
        """Hand over the messages as they come; returns when the server has no more of them."""
        if not self._link.connected:
            return
        self._take = take
        inbox = self._link.new_inbox()
        sid = await self._link.subscribe(inbox, self._receive)
        try:
            body = b'{"batch":%d,"no_wait":true}' % self._most
            self._link.post(command(self._subject, inbox, b"", body))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await self._over.wait()
        finally:
            self._take = None
            self._link.unsubscribe(sid)

    def _receive(self, subject: bytes, reply: bytes, body: bytes, block: bytes | None) -> None:
        if not reply.startswith(_ACK):
            self._over.set()  # there are no more, or others have asked for them before us
        elif not self._acks.fullmatch(reply):
            self._link.events("delivery_forged", f"{subject!r}, {reply!r}")
        elif self._take is None:
            self._link.post(command(reply.decode(), "", b"", GIVE_BACK))  # too late for us
        else:
            self._take(subject, reply, body, block)
            self._left -= 1
            if self._left <= 0:
                self._over.set()
