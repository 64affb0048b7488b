"""The courier: carries what waits at this site to another one, through any outage of the link.

It takes a message from the site's own stream, hands it over with its id, and acks it only after
the other site has it on disk. What is handed over twice is recognised there. While the link is
down one message a second asks whether it is back, and the rest stay in the stream.
"""

import asyncio
import logging
import random
import time
from collections import deque
from functools import partial

import msgspec

from scalebox_actors.committer import Committer
from scalebox_actors.crossing import CARRIED, Bucket, Passage, Passed, Window, mark, sent_key
from scalebox_actors.effects import Scribe
from scalebox_actors.errors import SbxError, Transient
from scalebox_actors.ledger import Ledger
from scalebox_actors.message import MSG_ID
from scalebox_actors.names import digest, is_reserved_id
from scalebox_actors.policy import Bury, Reason
from scalebox_actors.ports import Broker, Delivery, Entry, Intake
from scalebox_actors.topology.model import Site

IN_HAND = 4096
"""Messages of one link in the hands of one courier."""
PARCEL_MESSAGES, PARCEL_BYTES = 256, 512 * 1024
PARCELS = 8
"""On their way at once, to each site."""
OVERHEAD = 400
"""Bytes that headers and subject of a message are taken for."""
GIVE_BACK = 2.0
PAUSE_FIRST, PAUSE_MOST = 0.05, 1.0
SILENCE, KNOCK_SILENCE = 5.0, 2.0
"""Seconds after which a parcel, or a message that asks if the link is back, counts as lost."""
ABANDON_AFTER = 5.0
"""So long a module may be absent there, while others arrive, before its messages are let go."""

log = logging.getLogger(__name__)


class _Item(msgspec.Struct, eq=False):
    """A message in our hands, as it will be handed over."""

    delivery: Delivery
    entry: Entry
    mark: int
    size: int


class _Lane:
    """The messages for one module at the other site."""

    def __init__(self, module: str, priority: int) -> None:
        self.module, self.priority = module, priority
        self.items: deque[_Item] = deque()
        self.pause = 0.0
        """How long it waits before it knocks again; 0 while messages arrive."""
        self.next = 0.0
        self.knocking = False
        self.down_since = 0.0


class RoadStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How the road to another site is, as one courier sees it."""

    site: str
    carried: int
    in_hand: int
    down_since: float
    """When it was last found closed, in seconds since the epoch; 0 while it is open."""
    why: str = ""


class CourierDesk(msgspec.Struct, frozen=True, kw_only=True):
    """What a courier shares with the actors of its node."""

    committer: Committer
    scribe: Scribe
    ledger: Ledger


class Courier:
    """Carries messages to one other site; every node of this site has one for each of those."""

    def __init__(self, site: str, here: Site, broker: Broker, desk: CourierDesk) -> None:
        self.site = site
        self.carried = 0
        self._broker, self._desk = broker, desk
        self._priorities = here.priorities
        self._lanes: dict[str, _Lane] = {}
        self._window = Window()
        self._rate = Bucket(here.link.rate) if here.link.rate else None
        self._bandwidth = Bucket(float(here.link.bandwidth)) if here.link.bandwidth else None
        self._stirred = asyncio.Event()
        self._flights: set[asyncio.Task[None]] = set()
        self._intake: Intake | None = None
        self._in_hand = 0
        self._holding = False
        self._arrived_at = 0.0
        self._down_since = 0.0
        self._why = ""

    async def run(self) -> None:
        """Carry until cancelled; raises what ends the connection to the broker for good."""
        try:
            async with (
                self._broker.intake_to(self.site) as intake,
                asyncio.TaskGroup() as tasks,
            ):
                self._intake = intake
                if not self._holding:
                    intake.grant(IN_HAND)
                tasks.create_task(self._dispatch(tasks))
                async for delivery in intake:
                    await self._take(delivery)
        except* SbxError as group:
            raise group.exceptions[0] from group
        finally:
            await self._give_back()

    def hold(self) -> None:
        """Take nothing more; what is in hand is still carried."""
        self._holding = True
        if self._intake is not None:
            self._intake.hold()

    @property
    def idle(self) -> bool:
        """Whether nothing is in hand."""
        return self._in_hand == 0

    def status(self) -> RoadStatus:
        """Return how the road is."""
        return RoadStatus(
            site=self.site,
            carried=self.carried,
            in_hand=self._in_hand,
            down_since=self._down_since,
            why=self._why,
        )

    async def _give_back(self) -> None:
        """Let other couriers have at once what we have not sent; what is underway comes later."""
        items = [item for lane in self._lanes.values() for item in lane.items]
        self._lanes.clear()
        try:
            async with asyncio.timeout(GIVE_BACK):
                await asyncio.gather(*(item.delivery.give_back(0.0) for item in items))
        except (SbxError, TimeoutError) as error:
            log.warning("not_given_back", extra={"site": self.site, "why": repr(error)})
        finally:
            for item in items:
                item.delivery.let_go()

    # --- taking ---------------------------------------------------------------------------------

    async def _take(self, delivery: Delivery) -> None:
        self._in_hand += 1
        module = delivery.raw.subject.rpartition(".")[2]
        if delivery.raw.fault:
            await self._bury(delivery, module)
            return
        lane = self._lanes.get(module)
        if lane is None:
            lane = self._lanes[module] = _Lane(module, self._priorities.get(module, 0))
        if lane.pause and self._abandoned(lane):
            await delivery.give_back(ABANDON_AFTER)
            self._release(1)
            return
        lane.items.append(self._item(delivery, module))
        self._stirred.set()

    def _item(self, delivery: Delivery, module: str) -> _Item:
        names = self._broker.names
        message_id = delivery.message_id
        if is_reserved_id(message_id):
            message_id = digest("carried", names.site, message_id)  # the same whenever it comes
        # A stored member of a batch still says so; over there it would be one of a broken batch.
        raw = delivery.raw.headers.items()
        headers = {name: value for name, value in raw if not name.startswith("Nats-")}
        headers[MSG_ID], headers[CARRIED] = message_id, names.site
        body = delivery.raw.body
        entry = Entry(subject=names.at(self.site).task(module), body=body, headers=headers)
        return _Item(delivery, entry, mark(module, message_id, body), len(body) + OVERHEAD)

    def _abandoned(self, lane: _Lane) -> bool:
        """Whether a module is absent there although the link is up: it must not fill our hands."""
        now = time.monotonic()
        return (
            len(lane.items) >= IN_HAND // 8
            and now - lane.down_since > ABANDON_AFTER
            and now - self._arrived_at < ABANDON_AFTER
        )

    async def _bury(self, delivery: Delivery, module: str) -> None:
        """Set aside what cannot be read: nobody there could either."""
        verdict = Bury(Reason.BAD_MESSAGE, delivery.raw.fault)
        effects = self._desk.scribe.unread(delivery.raw, module, delivery.message_id, verdict)
        await self._desk.committer.commit(effects)
        log.warning("message_buried", extra={"target": module, "why": verdict.text})
        await delivery.done()
        self._release(1)

    def _release(self, count: int) -> None:
        self._in_hand -= count
        if self._intake is not None and not self._holding:
            self._intake.grant(count)

    # --- sending --------------------------------------------------------------------------------

    async def _dispatch(self, tasks: asyncio.TaskGroup) -> None:
        """Send parcel after parcel, the most urgent first, as fast as the link may be used."""
        while True:
            self._stirred.clear()
            lane = self._ready()
            if lane is None:
                await self._rest()
                continue
            parcel = self._parcel(lane)
            size = sum(item.size for item in parcel)
            self._window.sent(size)
            lane.knocking = bool(lane.pause)
            flight = tasks.create_task(self._carry(lane, parcel, size))
            self._flights.add(flight)
            flight.add_done_callback(partial(self._landed, lane, parcel))
            await self._pay(len(parcel), size)

    def _ready(self) -> _Lane | None:
        if len(self._flights) >= PARCELS or (self._window.flying and not self._window.room()):
            return None
        now = time.monotonic()
        ready = [
            lane
            for lane in self._lanes.values()
            if lane.items and not lane.knocking and lane.next <= now
        ]
        return max(ready, key=lambda lane: lane.priority, default=None)

    async def _rest(self) -> None:
        """Wait until something has changed, or a lane may knock again."""
        now = time.monotonic()
        knocks = [
            lane.next - now
            for lane in self._lanes.values()
            if lane.items and lane.next > now and not lane.knocking
        ]
        try:
            async with asyncio.timeout(max(0.0, min(knocks)) if knocks else None):
                await self._stirred.wait()
        except TimeoutError:
            return

    def _parcel(self, lane: _Lane) -> list[_Item]:
        """Take what goes together: one message if the lane only knocks."""
        messages, room = PARCEL_MESSAGES, min(PARCEL_BYTES, self._window.room())
        now = time.monotonic()
        if self._rate is not None:
            messages = min(messages, round(self._rate.left(now)))
        if self._bandwidth is not None:
            room = min(room, round(self._bandwidth.left(now)))
        if lane.pause:
            messages = 1
        parcel = [lane.items.popleft()]
        size = parcel[0].size
        while lane.items and len(parcel) < messages and size + lane.items[0].size <= room:
            size += lane.items[0].size
            parcel.append(lane.items.popleft())
        return parcel

    async def _pay(self, messages: int, size: int) -> None:
        """Wait as the link's `rate` and `bandwidth` ask."""
        for bucket, amount in ((self._rate, messages), (self._bandwidth, size)):
            if bucket is not None:
                bucket.take(amount)
                await asyncio.sleep(bucket.delay(time.monotonic()))

    def _landed(self, lane: _Lane, parcel: list[_Item], flight: "asyncio.Task[None]") -> None:
        self._flights.discard(flight)
        if parcel:  # it ended without an answer: nobody works on them, so nobody may say so
            self._window.lost(sum(item.size for item in parcel), time.monotonic())
            lane.knocking = False
            for item in parcel:
                item.delivery.let_go()
            self._release(len(parcel))
        self._stirred.set()

    async def _carry(self, lane: _Lane, parcel: list[_Item], size: int) -> None:
        """Hand a parcel over; what did not arrive goes back to the head of its lane."""
        began = time.monotonic()
        seconds = KNOCK_SILENCE if lane.knocking else SILENCE
        entries = [item.entry for item in parcel]
        passages = await self._broker.forward(entries, seconds=seconds)
        now = time.monotonic()
        pairs = list(zip(parcel, passages, strict=True))
        parcel.clear()  # from here on each of them goes its own way
        arrived = [item for item, passage in pairs if passage.kind is Passed.ARRIVED]
        failed = [(item, passage) for item, passage in pairs if passage.kind is not Passed.ARRIVED]
        if any(passage.kind is Passed.SILENT for passage in passages):
            self._window.lost(size, now)
        else:
            self._window.answered(size, now - began, now)
        lane.knocking = False
        if failed:
            lane.items.extendleft(item for item, _ in reversed(failed))
            self._fell_back(lane, failed[0][1], now)
        elif lane.pause:
            self._came_through(lane)
        self._stirred.set()
        # Killed here, the messages are there and still wait here: they are handed over again
        # and recognised. Acking before the answer would lose them.
        if arrived:
            self._arrived_at = now
            await asyncio.gather(*(self._settle(item) for item in arrived))

    async def _settle(self, item: _Item) -> None:
        """Count a message that arrived, then take it out of our own stream."""
        key, delivery = sent_key(self.site), item.delivery
        ledger = self._desk.ledger
        try:
            await ledger.count(key, delivery.sequence, item.mark, again=delivery.redelivered)
            await delivery.done()
        except Transient as error:  # it comes again, and is recognised at both ends
            log.warning("message_postponed", extra={"site": self.site, "why": str(error)})
        else:
            ledger.closed(key, delivery.sequence)
            self.carried += 1
        finally:
            delivery.let_go()
            self._release(1)

    def _fell_back(self, lane: _Lane, passage: Passage, now: float) -> None:
        if not lane.pause:
            lane.down_since = now
            self._down_since = self._down_since or time.time()
            log.warning(
                "road_closed",
                extra={
                    "site": self.site,
                    "target": lane.module,
                    "kind": str(passage.kind),
                    "why": passage.text,
                },
            )
        self._why = f"{passage.kind}: {passage.text}"
        lane.pause = min(PAUSE_MOST, max(PAUSE_FIRST, lane.pause * 2))
        lane.next = now + lane.pause * random.uniform(0.5, 1.0)  # noqa: S311 - jitter

    def _came_through(self, lane: _Lane) -> None:
        lane.pause = lane.next = 0.0
        if not any(other.pause for other in self._lanes.values()):
            self._down_since, self._why = 0.0, ""
        log.warning("road_open", extra={"site": self.site, "target": lane.module})
