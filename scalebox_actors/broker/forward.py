"""Handing messages to another site: across the leaf link, once, with an answer for each.

Several go as one atomic batch, which costs the other server one sync to disk. When a batch is
refused for one of them, each is asked for alone: what was there already is answered as such.
"""

import asyncio
import itertools
from collections.abc import Sequence

import msgspec

from scalebox_actors.broker.client import ConnectionLost, NoResponders, error_of
from scalebox_actors.broker.commit import judge, send_batch, unfit
from scalebox_actors.broker.link import Link
from scalebox_actors.broker.wire import Reply, command, header_block
from scalebox_actors.crossing import Passage, Passed
from scalebox_actors.errors import BadMessage, NotPermitted
from scalebox_actors.names import digest
from scalebox_actors.ports import Entry

_ARRIVED = Passage(Passed.ARRIVED)
_decode = msgspec.json.Decoder(dict[str, object]).decode


class Forwarder:
    """Publishes to the streams of other sites; see `Broker.forward`."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._batches = itertools.count(1)
        self._prefix = digest("forward", link.new_inbox())[:12]

    async def forward(self, entries: Sequence[Entry], *, seconds: float) -> Sequence[Passage]:
        """Hand entries over once, and say of each what became of it."""
        if len(entries) < 2:  # noqa: PLR2004 - a batch of one is a plain publish
            return [await self._alone(entry, seconds) for entry in entries]
        if unfit(entries, self._link.max_payload):
            return await self._each(entries, seconds)
        name = f"{self._prefix}{next(self._batches)}"
        passage = await self._ask(send_batch(self._link, entries, name, seconds=seconds))
        if passage.kind is Passed.REFUSED:
            return await self._each(entries, seconds)
        return [passage] * len(entries)

    async def _each(self, entries: Sequence[Entry], seconds: float) -> Sequence[Passage]:
        return await asyncio.gather(*(self._alone(entry, seconds) for entry in entries))

    async def _alone(self, entry: Entry, seconds: float) -> Passage:
        fault = unfit([entry], self._link.max_payload)
        if fault:
            return Passage(Passed.REFUSED, fault)
        return await self._ask(self._publish(entry, seconds))

    async def _publish(self, entry: Entry, seconds: float) -> Reply:
        reply, answered = self._link.ticket(entry.subject, seconds)
        block = header_block(entry.headers) if entry.headers else b""
        self._link.post(command(entry.subject, reply, block, entry.body))
        try:
            return await answered
        finally:
            answered.cancel()

    async def _ask(self, asking: "asyncio.Future[Reply] | object") -> Passage:
        try:
            reply = await asking  # type: ignore[misc]
        except NoResponders as error:
            return Passage(Passed.ABSENT, str(error))
        except ConnectionLost as error:
            return Passage(Passed.SILENT, str(error))
        except (NotPermitted, BadMessage) as error:
            return Passage(Passed.REFUSED, str(error))
        answer = _decode(reply.body) if reply.body else {}
        error_ = error_of(answer)
        if error_ is None:
            return _ARRIVED  # also if it says `duplicate`: it was there before
        refusal, reason = judge(error_)
        if refusal is None:
            return Passage(Passed.FULL, reason)
        return Passage(Passed.REFUSED, refusal.text)
