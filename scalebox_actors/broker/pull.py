"""The intake: one long-lived pull subscription, and exactly as many messages as there are slots.

A message that nobody works on should not be in anybody's hands. So a pull asks for the granted
slots and, only where runs are short, for a few more: the next message is there when a slot falls
free (ahead.py). What is in hand is heart-beaten until it is settled.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import partial
from types import TracebackType
from typing import Self

import msgspec

from scalebox_actors.broker.ahead import Ahead
from scalebox_actors.broker.beat import beat_interval
from scalebox_actors.broker.client import ApiError, NoResponders
from scalebox_actors.broker.delivery import GIVE_BACK, PulledDelivery, ack_subjects
from scalebox_actors.broker.link import Link
from scalebox_actors.broker.more import More
from scalebox_actors.broker.streams import NS, Config, ensure_consumer, stream_info
from scalebox_actors.broker.wire import (
    STATUS_EXPIRED,
    STATUS_HEARTBEAT,
    STATUS_NO_RESPONDERS,
    Reply,
    command,
    read_headers,
    read_reply,
)
from scalebox_actors.errors import NotPermitted, SbxError, Unavailable
from scalebox_actors.limits import HEARTBEAT
from scalebox_actors.message import MSG_TTL, Raw
from scalebox_actors.names import Names
from scalebox_actors.ports import Delivery

EXPIRES = 30
IDLE_HEARTBEAT = 5
SILENCE = 12.0
"""Without a sign of life for so long a pull is lost: two idle heart-beats and a little."""

_ACK = b"$JS.ACK."
_AGAIN = 0.5
_ACK_PATIENCE = 5.0
_ACK_TRIES = 3


class PullIntake:
    """Deliveries of one consumer; see the port."""

    def __init__(self, link: Link, names: Names, config: Config, stream_created: str) -> None:
        self.stream_created = stream_created
        self._link = link
        self._names = names
        self._config = config
        self._consumer = str(config["durable_name"])
        self._acks = ack_subjects(names.stream, self._consumer)
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{names.stream}.{self._consumer}"
        self._loop = asyncio.get_running_loop()
        self.ahead = Ahead(0)
        self._granted = 0
        """Messages that we may ask for and have not: for slots, and ahead."""
        self._asked = 0
        """Messages that we have asked for and that have not come."""
        self._queue: deque[PulledDelivery] = deque()
        self._foretell: Callable[[Delivery], None] = _say_nothing
        self._hands: set[PulledDelivery] = set()
        self._waiter: asyncio.Future[None] | None = None
        self._failure: SbxError | None = None
        self._over = False
        self._inbox = ""
        self._sid = 0
        self._generation = 0
        self._scheduled = False
        self._reckoning = False
        self._last_sign = 0.0
        self._next_beat = 0.0
        self._beat_every = HEARTBEAT
        self._timer: asyncio.TimerHandle | None = None

    # --- the port ---------------------------------------------------------------------------

    def grant(self, slots: int) -> None:
        """Let `slots` more deliveries come."""
        self._granted += slots + self.ahead.free(slots, self._loop.time())
        if self._queue:
            self._wake()
        self._schedule()

    def hold(self) -> None:
        """Ask for nothing more until `grant` is called again; unanswered grants are forgotten."""
        self._drop_pull()
        self._give_back_queue()
        self.ahead.forget_slots()
        self._granted = 0

    def foretell(self, tell: Callable[[Delivery], None]) -> None:
        """Say of deliveries as they come, before they are handed out; not all of them are."""
        self._foretell = tell

    async def more(self, most: int) -> list[Delivery]:
        """Return up to `most` further deliveries that wait now."""
        came: list[Delivery] = []
        while self._queue and len(came) < most:  # asked for ahead: older than what waits
            came.append(self._queue.popleft())
            self._granted += 1
        if came:
            self._schedule()  # other slots may be free, and what was at hand for them is gone
        most -= len(came)
        if most > 0 and not self._over:
            pull = More(self._link, self._next, self._acks, most)
            await pull.gather(lambda *parts: came.append(self._delivery(*parts)))
        return came

    async def __aenter__(self) -> Self:
        self._link.watchers.add(self._on_link)
        self._beat_every = await beat_interval(self._link, self._names, self._consumer)
        self._next_beat = self._loop.time() + self._beat_every
        self._tick()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over = True
        self.hold()
        self._link.watchers.discard(self._on_link)
        if self._timer is not None:
            self._timer.cancel()
        self._hands.clear()  # nobody beats for them now: they are delivered again
        self._wake()

    def __aiter__(self) -> AsyncIterator[Delivery]:
        return self

    async def __anext__(self) -> Delivery:
        while not (self._queue and self.ahead.slots_free):
            if self._failure is not None:
                raise self._failure
            if self._over:
                raise StopAsyncIteration
            self._waiter = self._loop.create_future()
            await self._waiter
        self.ahead.take()
        return self._queue.popleft()

    # --- for deliveries ---------------------------------------------------------------------

    async def settle(self, delivery: PulledDelivery, body: bytes) -> None:
        """Tell the server what became of a delivery, and wait for its confirmation."""
        try:
            if delivery.forgotten:
                raise _forgotten()
            await self._link.call(
                delivery.reply, body, patience=_ACK_PATIENCE, tries=_ACK_TRIES, soon=False
            )
        except NoResponders:
            raise Unavailable(
                f"consumer {self._consumer} is gone; its message comes again"
            ) from None
        finally:
            self._hands.discard(delivery)

    def forget(self, delivery: PulledDelivery) -> None:
        """Stop telling the server that somebody works on it."""
        self._hands.discard(delivery)

    # --- asking -----------------------------------------------------------------------------

    def _schedule(self) -> None:
        """Ask once for all that is granted in this turn of the loop."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._ask)

    def _ask(self) -> None:
        self._scheduled = False
        if self._granted <= 0 or self._over or self._reckoning or not self._link.connected:
            return  # after a reconnect and a reckoning we are called again
        if not self.ahead.worth_asking(self._granted, self._asked + len(self._queue)):
            return
        if not self._sid:
            if not self._inbox:
                self._inbox = self._link.new_inbox()
                self._link.spawn(self._subscribe(self._generation))
            return
        count, self._granted = self._granted, 0
        soon = self.ahead.slots_free > self._asked + len(self._queue)
        self._asked += count
        self._last_sign = self._loop.time()
        body = b'{"batch":%d,"expires":%d,"idle_heartbeat":%d}' % (
            count,
            EXPIRES * NS,
            IDLE_HEARTBEAT * NS,
        )
        self._link.post(command(self._next, self._inbox, b"", body), soon=soon)

    async def _subscribe(self, generation: int) -> None:
        sid = await self._link.subscribe(self._inbox, partial(self._receive, generation))
        if generation != self._generation:
            self._link.unsubscribe(sid)  # held or lost meanwhile
            return
        self._sid = sid
        self._ask()

    def _drop_pull(self) -> None:
        """Forget the pull; what still comes of it is given back. The slots stay granted."""
        self._generation += 1
        self._granted += self._asked
        self._asked = 0
        if self._sid:
            self._link.unsubscribe(self._sid)
        self._sid, self._inbox = 0, ""

    def _give_back_queue(self) -> None:
        self._granted += len(self._queue)
        while self._queue:
            self._link.spawn(self._queue.popleft().give_back(0.0))

    # --- receiving --------------------------------------------------------------------------

    def _receive(
        self, generation: int, subject: bytes, reply: bytes, body: bytes, block: bytes | None
    ) -> None:
        self._last_sign = self._loop.time()
        if not reply.startswith(_ACK):
            if generation == self._generation:
                self._take_status(read_reply(block, body))
            return
        if not self._acks.fullmatch(reply):
            self._link.events("delivery_forged", f"{self._consumer}: {subject!r}, {reply!r}")
            return
        if generation != self._generation or self._asked <= 0:
            self._link.post(command(reply.decode(), "", b"", GIVE_BACK))
            return
        self._asked -= 1
        delivery = self._delivery(subject, reply, body, block)
        self._queue.append(delivery)
        self._foretell(delivery)
        self._wake()

    def _delivery(
        self, subject: bytes, reply: bytes, body: bytes, block: bytes | None
    ) -> PulledDelivery:
        headers, fault = read_headers(block) if block else ({}, "")
        name = subject.decode("ascii", "backslashreplace")  # as clients wrote it: it may be no text
        raw = Raw(subject=name, body=body, headers=headers, fault=fault)
        if MSG_TTL in headers:
            self._link.events("foreign_ttl", f"{raw.subject}: its publisher set {MSG_TTL}")
        delivery = PulledDelivery(self, raw, reply)
        self._hands.add(delivery)
        return delivery

    def _take_status(self, reply: Reply) -> None:
        if reply.status == STATUS_HEARTBEAT:
            return
        left = reply.headers.get("Nats-Pending-Messages", "")
        if reply.status == STATUS_EXPIRED and left.isdigit():
            returned = min(int(left), self._asked)
            self._asked -= returned
            self._granted += returned
            self._schedule()
            return
        gone = reply.status == STATUS_NO_RESPONDERS or "Deleted" in reply.text
        self._link.events("pull_ended", f"{self._next}: {reply.status} {reply.text}")
        self._drop_pull()
        if gone:
            self._link.spawn(self._recover())
        else:
            self._loop.call_later(_AGAIN, self._schedule)

    async def _recover(self) -> None:
        """Find out why nobody answers: make a lost consumer again, but never a lost stream."""
        stream = self._names.stream
        while not self._over:
            try:
                info = await stream_info(self._link, stream)
                if info is None or info.created != self.stream_created:
                    self._fail(Unavailable(f"stream {stream} is gone; it is not made again"))
                    return
                if await ensure_consumer(self._link, stream, self._config):
                    text = f"{self._consumer} of {stream} was gone"
                    self._link.events("consumer_made_again", text)
            except NotPermitted as error:
                self._fail(error)  # making consumers is the admin's; waiting would look like idling
                return
            except (NoResponders, ApiError) as error:
                self._link.events("pull_waits", str(error))  # the server is not ready yet
                await asyncio.sleep(_AGAIN)
            else:
                break
        await asyncio.sleep(_AGAIN)
        self._schedule()

    # --- time and connection ----------------------------------------------------------------

    def _tick(self) -> None:
        self._timer = self._loop.call_later(min(1.0, self._beat_every), self._tick)
        now = self._loop.time()
        if now >= self._next_beat:
            self._beat()
        if self._asked and self._link.connected and now - self._last_sign > SILENCE:
            self._link.events("pull_lost", f"{self._next}: no sign of life; asking again")
            self._drop_pull()
            self._schedule()
        if len(self._queue) + self._asked > self.ahead.slots_free and self.ahead.is_late(now):
            # Runs have become long. Others may have free slots for what waits here.
            self._drop_pull()
            self._give_back_queue()
            self._granted -= self.ahead.give_up()
            self._schedule()

    def _beat(self) -> None:
        self._next_beat = self._loop.time() + self._beat_every
        for delivery in self._hands:
            self._link.post(delivery.beat)

    def _on_link(self, up: bool) -> None:
        if self._link.closed:
            self._fail(Unavailable(f"the connection to NATS has ended: {self._link.closed}"))
        elif not up:
            self._drop_pull()
        elif not self._reckoning:
            self._reckoning = True
            self._link.spawn(self._reckon())

    async def _reckon(self) -> None:
        """Find out what the server still knows of the deliveries in hand.

        A consumer's state is written a little later than its messages. A server that crashed
        may have forgotten its last deliveries: it ignores their acks without an answer, and
        hands the messages out again. Whoever holds such a delivery must not wait for an answer.
        """
        try:
            stream, consumer = self._names.stream, self._consumer
            info = await self._link.api(f"CONSUMER.INFO.{stream}.{consumer}")
            known = msgspec.convert(info.get("delivered"), _Delivered).consumer_seq
        except SbxError as error:
            # Gone or not there yet: the next pull finds out, and an ack gives up after some tries.
            self._link.events("reckoning_failed", f"{self._consumer}: {error}")
        else:
            self._forget_after(known)
        finally:
            self._reckoning = False
        self._beat()
        self._schedule()

    def _forget_after(self, known: int) -> None:
        lost = {delivery for delivery in self._hands if delivery.turn > known}
        if not lost:
            return
        self._link.events("deliveries_forgotten", f"{self._consumer}: {len(lost)} come again")
        for delivery in lost:
            delivery.forgotten = True
        self._hands -= lost
        untaken = [delivery for delivery in self._queue if delivery in lost]
        self._queue = deque(delivery for delivery in self._queue if delivery not in lost)
        self._granted += len(untaken)
        self._link.give_up({delivery.reply for delivery in lost}, _forgotten())

    def _fail(self, error: SbxError) -> None:
        self._failure = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _say_nothing(_: Delivery) -> None:
    """Foretell nobody."""


class _Delivered(msgspec.Struct):
    consumer_seq: int


def _forgotten() -> Unavailable:
    return Unavailable("the server crashed and forgot this delivery; its message comes again")
