"""The ledger: a node's tallies of what crossed the links, exact through every crash.

A message is counted after its effects are safe and before it is acked, and its place in the
stream stays written down until the ack is confirmed. Whoever gets the message again finds the
place in somebody's tally and does not count it twice.
"""

import asyncio
from collections import deque
from collections.abc import Collection, Sequence
from itertools import chain

import msgspec

from scalebox_actors.crossing import CARRIED, Tally, mark, received_key
from scalebox_actors.effects import Effects
from scalebox_actors.ports import Broker, Delivery
from scalebox_actors.records import DoneRecord

CLOSED_KEPT = 1024
"""More than can be acked between two syncs of a server's consumer state."""
GATHER = 0.01
"""Seconds for which places are gathered for one write of a tally."""

_decode = msgspec.json.Decoder(Tally).decode
_encode = msgspec.json.Encoder().encode
_record = msgspec.json.Decoder(DoneRecord).decode


class _Page:
    """The tally of one link on this node."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.open: set[int] = set()
        self.closed: deque[int] = deque()
        """Those of the open places whose ack was confirmed, oldest first."""
        self.loaded = False
        self.new: dict[int, Sequence[int]] = {}
        """Place to marks of what is not in the stored tally yet."""
        self.writing: asyncio.Task[None] | None = None


def placed(effects: Effects, delivery: Delivery) -> Effects:
    """Return effects whose record names the place of a message that came from another site."""
    if CARRIED not in delivery.raw.headers:
        return effects
    record = msgspec.structs.replace(_record(effects.record.body), place=delivery.sequence)
    entry = msgspec.structs.replace(effects.record, body=msgspec.json.encode(record))
    return msgspec.structs.replace(effects, record=entry)


class Ledger:
    """Counts messages once, whatever dies; see `count`.

    What comes from no site of `origins` only says so: each of them has a page in memory and a key
    in the state bucket, and a sender could invent names without end.
    """

    def __init__(self, broker: Broker, node: str, origins: Collection[str] = ()) -> None:
        self._broker = broker
        self._node = node
        self._origins = frozenset(origins) - {broker.names.site}
        self._pages: dict[str, _Page] = {}
        self._lock = asyncio.Lock()

    async def count(self, key: str, sequence: int, marks: Sequence[int]) -> None:
        """Count the messages at a place on the tally of `key`; returns when that is safe on disk.

        Whether the place was in somebody's hands before is not asked of the delivery: a server
        that was killed may hand out again, as if it were new, what another node has acked.
        """
        page = await self._page(key)
        # Asked after the last await before it is noted: an earlier delivery of the same message
        # may have failed on the way to the disk, and have been stored meanwhile after all.
        if sequence in page.open:
            return
        page.new[sequence] = marks
        while sequence in page.new:
            if page.writing is None or page.writing.done():
                page.writing = asyncio.create_task(self._write(key, page))
            await asyncio.shield(page.writing)

    def closed(self, key: str, sequence: int) -> None:
        """Note that a counted message has left the stream and cannot come again."""
        page = self._pages.get(key)
        if page is not None and sequence in page.open:
            # A server that is killed may forget an ack that it had confirmed, and hand the
            # message out again: the places of the last ones stay written down.
            page.closed.append(sequence)
            if len(page.closed) > CLOSED_KEPT:
                page.open.discard(page.closed.popleft())

    async def receive(self, delivery: Delivery, module: str, *, committed: bool) -> None:
        """Ack a delivery whose task has ended; one from another site is counted first.

        Unless we have just committed it, it may be a second copy: the record tells which copy
        was the first, and only that one counts.
        """
        origin = delivery.raw.headers.get(CARRIED, "")
        if origin not in self._origins:
            await delivery.done()
            return
        key, place = received_key(origin), delivery.sequence
        if committed or await self._is_first(delivery, module):
            of = mark(module, delivery.message_id, delivery.raw.body)
            await self.count(key, place, [of])
        await delivery.done()
        self.closed(key, place)

    async def totals(self, key: str) -> Tally:
        """Return the sum of all nodes' tallies of `key`, as they are stored."""
        total = Tally()
        for name in await self._broker.state_keys(key):
            stored = await self._broker.get_state(name)
            total = total.added(_decode(stored)) if stored else total
        return total

    # --- inside ---------------------------------------------------------------------------------

    async def _page(self, key: str) -> _Page:
        page = self._pages.get(key)
        if page is None:
            page = self._pages[key] = _Page()
        if not page.loaded:
            async with self._lock:
                if not page.loaded:
                    stored = await self._broker.get_state(f"{key}.{self._node}")
                    if stored:
                        page.tally = _decode(stored)
                        # Counted in an earlier life: those that had left come never again.
                        page.open = set(page.tally.open)
                        page.closed.extend(sorted(page.open))
                    page.loaded = True
        return page

    async def _is_first(self, delivery: Delivery, module: str) -> bool:
        stored = await self._broker.read(self._broker.names.done(module, delivery.message_id))
        return stored is not None and _record(stored.body).place == delivery.sequence

    async def _counted(self, key: str) -> set[int]:
        """Return the places that any other node's tally says are counted."""
        places: set[int] = set()
        for name in await self._broker.state_keys(key):
            if name != f"{key}.{self._node}":
                stored = await self._broker.get_state(name)
                places.update(_decode(stored).open if stored else ())
        return places

    async def _write(self, key: str, page: _Page) -> None:
        """Store everything that is new in one write; what comes meanwhile goes with the next."""
        await asyncio.sleep(GATHER)  # each write costs the server a sync; who waits, waits to ack
        new = dict(page.new)
        # Looked at after the messages came to us: whoever acked them before had counted them.
        others = await self._counted(key)
        taken = {place: marks for place, marks in new.items() if place not in others}
        places = tuple(sorted(page.open | set(taken)))
        total = page.tally.plus(chain.from_iterable(taken.values()))
        tally = msgspec.structs.replace(total, open=places)
        await self._broker.put_state(f"{key}.{self._node}", _encode(tally))
        # Killed here, or before the acks: the messages come again and are found in `open`.
        page.tally = tally
        page.open.update(taken)
        for sequence in new:
            page.new.pop(sequence, None)
