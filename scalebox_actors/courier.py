"""The courier: carries what waits at this site to another one, through any outage of the link.

It takes a message from the site's own stream, hands it over with its id, and acks it only after
the other site has it on disk. What is handed over twice is recognised there. While the link is
down one message a second asks whether it is back, and the rest stay in the stream.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Collection, Mapping
from functools import partial

import msgspec

from scalebox_actors.cargo import Hold, Item, Lane, Packet, Unreadable, Withdrawn, departed, opened
from scalebox_actors.committer import Committer
from scalebox_actors.crossing import Passage, Passed, RoadStatus, Toll, Window, sent_key
from scalebox_actors.effects import Scribe
from scalebox_actors.errors import SbxError, Transient
from scalebox_actors.ledger import Ledger
from scalebox_actors.limits import ACK_WAIT, BATCH_MESSAGES
from scalebox_actors.names import bound_for
from scalebox_actors.policy import Bury, Reason
from scalebox_actors.ports import Broker, Delivery, Intake
from scalebox_actors.topology.model import Site

ASKED = 64
"""Deliveries that are asked for at once; each may be a parcel."""
LOAD_MESSAGES, LOAD_BYTES = BATCH_MESSAGES, 512 * 1024
LOADS = 8
"""On their way at once, to each site."""
GATHER = 0.01
"""Seconds after a load that was not full before its lane sends another: one batch costs the other
server the same whatever its size."""
GIVE_BACK = 2.0
PAUSE_FIRST, PAUSE_MOST = 0.05, 1.0
SILENCE, KNOCK_SILENCE = 5.0, 2.0
"""Seconds after which a load, or a message that asks if the link is back, counts as lost, if it
is small."""
ABANDON_AFTER = 5.0
"""So long a module may be absent there before its messages have to make room for others."""
SOON = 2.0
"""Seconds after which messages come again that made room: it may be the link that is down."""

log = logging.getLogger(__name__)


class CourierDesk(msgspec.Struct, frozen=True, kw_only=True):
    """What a courier shares with the actors of its node."""

    committer: Committer
    scribe: Scribe
    ledger: Ledger
    toll: Toll


class Courier:
    """Carries messages to one other site; every node of this site has one for each of those."""

    def __init__(self, site: str, here: Site, broker: Broker, desk: CourierDesk) -> None:
        self.site = site
        self.carried = 0
        self._broker, self._desk = broker, desk
        self._priorities = here.priorities
        self._lanes: dict[str, Lane] = {}
        self._window = Window()
        self._stirred = asyncio.Event()
        self._flights: set[asyncio.Task[None]] = set()
        self._intake: Intake | None = None
        self._asked = 0
        self._hold = Hold()
        self._withdrawn = Withdrawn(ACK_WAIT)
        self._holding = False
        self._arrived_at = self._made_room = 0.0
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
                self._ask()
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
        return self._hold.messages == 0

    def status(self) -> RoadStatus:
        """Return how the road is."""
        return RoadStatus(
            site=self.site,
            carried=self.carried,
            in_hand=self._hold.messages,
            down_since=self._down_since,
            why=self._why,
        )

    def withdraw(self, meant: Mapping[int, Collection[int]]) -> dict[int, list[int]]:
        """Let go of what is to be taken back; returns what is on its way already, or there.

        Both say which messages of which places in the stream. A parcel is let go of whole if it
        has one to take back: it comes again after its `ack_wait`, if it is there by then.
        """
        found = departed(self._hold.packets, self._lanes.values(), meant)
        here = {packet.delivery.sequence: gone for packet, gone in found.items()}
        self._withdrawn.add(meant.keys() - here.keys(), time.monotonic())
        free = [p for p, gone in found.items() if len(gone) < len(meant[p.delivery.sequence])]
        for lane in self._lanes.values():
            lane.drop(free)
        for packet in free:
            packet.delivery.let_go()
            self._release(packet)
        return {place: gone for place, gone in here.items() if gone}

    async def _give_back(self) -> None:
        """Let other couriers have at once what we have not sent; what is underway comes later."""
        self._lanes.clear()
        try:
            async with asyncio.timeout(GIVE_BACK):
                back = [p.delivery.give_back(0.0) for p in self._hold.packets if not p.flying]
                await asyncio.gather(*back)
        except (SbxError, TimeoutError) as error:
            log.warning("not_given_back", extra={"site": self.site, "why": repr(error)})
        finally:
            for packet in self._hold.packets:
                packet.delivery.let_go()
            self._hold.packets.clear()

    # --- taking ---------------------------------------------------------------------------------

    def _ask(self) -> None:
        """Ask for deliveries while there is room; how many messages each holds is not known."""
        if self._intake is None or self._holding or self._hold.full or self._asked > ASKED // 2:
            return
        self._intake.grant(ASKED - self._asked)
        self._asked = ASKED

    async def _take(self, delivery: Delivery) -> None:
        """Take a delivery into our hands, whatever is wrong with it."""
        self._asked = max(0, self._asked - 1)
        try:
            await self._open(delivery)
        except Transient as error:  # whole, with what could go: it is acked as one
            self._tell_postponed(error)
            await self._end(delivery, delivery.give_back(ABANDON_AFTER))
        except Exception:
            # A bug of ours must neither lose the message nor end the node: it comes again.
            log.exception("delivery_stumbled", extra={"site": self.site})
            await self._end(delivery, delivery.give_back(ABANDON_AFTER))

    async def _open(self, delivery: Delivery) -> None:
        if self._withdrawn.take(delivery.sequence):  # if it is still there, it comes again
            delivery.let_go()
            self._ask()
            return
        bound = bound_for(delivery.raw.subject)
        lane = self._lanes.get(bound.module)
        if lane is None:
            priority = self._priorities.get(bound.module, 0)
            lane = self._lanes[bound.module] = Lane(bound.module, priority)
        if lane.pause and self._abandoned(lane):
            await self._end(delivery, delivery.give_back(ABANDON_AFTER))
            return
        names = self._broker.names
        items, unreadable = opened(delivery, names, names.at(self.site))
        for bad in unreadable:
            await self._bury(bad, bound.module)
        if items:
            self._receive(lane, items)
            self._ask()
        else:
            await self._end(delivery, delivery.done())

    async def _end(self, delivery: Delivery, saying: Awaitable[None]) -> None:
        """Say what becomes of a delivery of which nothing is carried; unheard, it comes again."""
        try:
            await saying
        except Transient as error:
            self._tell_postponed(error)
            delivery.let_go()
        self._ask()

    def _receive(self, lane: Lane, items: list[Item]) -> None:
        self._hold.add(items[0].packet)
        lane.add(items)
        self._stirred.set()

    def _abandoned(self, lane: Lane) -> bool:
        """Whether a module is absent there although the link is up: it must not fill our hands."""
        now = time.monotonic()
        up = now - self._arrived_at < ABANDON_AFTER
        return up and lane.crowded and lane.closed(now) > ABANDON_AFTER

    async def _make_room(self, lane: Lane) -> None:
        """Give back a part of what a closed road has left us no room beside, newest first.

        While nothing arrives the link may be down, and nobody gains by it: then it is done seldom,
        for a look whether there is anything for modules that are there.
        """
        now = time.monotonic()
        up = now - self._arrived_at < ABANDON_AFTER
        due = up or now - self._made_room > ABANDON_AFTER
        if not (due and self._hold.full and lane.closed(now) > ABANDON_AFTER):
            return
        self._made_room = now
        packets = lane.spare()
        lane.drop(packets)
        back = [self._end(p.delivery, p.delivery.give_back(SOON)) for p in packets]
        await asyncio.gather(*back)
        for packet in packets:
            self._release(packet)

    async def _bury(self, bad: Unreadable, module: str) -> None:
        """Set aside what cannot be read: nobody there could either.

        Killed here, its parcel comes again whole, and its record says that it is buried. Raises
        Transient if the broker refuses the letter: the message must not go without one.
        """
        verdict = Bury(Reason.BAD_MESSAGE, bad.raw.fault)
        effects = self._desk.scribe.unread(bad.raw, module, bad.id, verdict)
        await self._desk.committer.bury(effects)
        log.warning("message_buried", extra={"target": module, "why": verdict.text})

    def _release(self, packet: Packet) -> None:
        if self._hold.remove(packet):
            self._ask()

    # --- sending --------------------------------------------------------------------------------

    async def _dispatch(self, tasks: asyncio.TaskGroup) -> None:
        """Send load after load, the most urgent first, as fast as the link may be used."""
        while True:
            self._stirred.clear()
            lane = self._ready()
            if lane is None:
                await self._rest()
                continue
            load = self._load(lane)
            size = sum(item.size for item in load)
            self._window.sent(size)
            lane.knocking = bool(lane.pause)
            if len(load) < LOAD_MESSAGES and not lane.pause:
                lane.next = time.monotonic() + GATHER
            flight = tasks.create_task(self._carry(lane, load, size))
            self._flights.add(flight)
            flight.add_done_callback(partial(self._landed, lane, load))
            wait = self._desk.toll.pay(len(load), size, time.monotonic())
            if wait:
                await asyncio.sleep(wait)

    def _ready(self) -> Lane | None:
        if len(self._flights) >= LOADS or (self._window.flying and not self._window.room()):
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

    def _load(self, lane: Lane) -> list[Item]:
        """Take what goes together: one message if the lane only knocks."""
        room = min(LOAD_BYTES, self._window.room())
        messages, room = self._desk.toll.room(LOAD_MESSAGES, room, time.monotonic())
        return lane.load(1 if lane.pause else messages, room)

    def _landed(self, lane: Lane, load: list[Item], flight: "asyncio.Task[None]") -> None:
        self._flights.discard(flight)
        if load:  # it ended without an answer: whoever gets these messages next asks anew
            self._window.lost(sum(item.size for item in load), time.monotonic())
            lane.knocking = False
            for packet in {item.packet for item in load}:
                self._let_go(lane, packet)
        self._stirred.set()

    def _let_go(self, lane: Lane, packet: Packet) -> None:
        """Work no more on a delivery, so that we do not say to the broker that we do."""
        lane.drop((packet,))
        packet.delivery.let_go()
        self._release(packet)

    async def _carry(self, lane: Lane, load: list[Item], size: int) -> None:
        """Hand a load over; what did not arrive goes back to the head of its lane."""
        began = time.monotonic()
        seconds = KNOCK_SILENCE if lane.knocking else SILENCE
        seconds += self._window.patience(size, lane.doubt)
        entries = [item.entry for item in load]
        passages = await self._broker.forward(entries, seconds=seconds)
        now = time.monotonic()
        pairs = list(zip(load, passages, strict=True))
        load.clear()  # from here on each of them goes its own way
        kinds = {passage.kind for passage in passages}
        lane.doubt = self._window.heard(kinds, size, now - began, now, lane.doubt)
        lane.knocking = False
        failed = [(item, passage) for item, passage in pairs if passage.kind is not Passed.ARRIVED]
        if failed:
            self._fell_back(lane, failed[0][1], now)
        elif lane.pause:
            self._came_through(lane)
        finished = self._sort(lane, pairs)
        self._stirred.set()
        # Killed here, the messages are there and still wait here: they are handed over again
        # and recognised. Acking before the answer would lose them.
        if len(failed) < len(pairs):
            self._arrived_at = now
        await asyncio.gather(*(self._settle(packet) for packet in finished))
        await self._make_room(lane)

    def _sort(self, lane: Lane, pairs: list[tuple[Item, Passage]]) -> list[Packet]:
        """Note which messages arrived, and return the deliveries that are over there whole."""
        finished: list[Packet] = []
        failed: list[Item] = []
        refused: list[Item] = []
        for item, passage in pairs:
            packet = item.packet
            packet.flying -= 1
            if packet not in self._hold.packets:
                continue  # let go of meanwhile: it comes again
            if passage.kind is not Passed.ARRIVED:
                (refused if passage.kind is Passed.REFUSED else failed).append(item)
                continue
            packet.arrived += 1
            if packet.complete:
                finished.append(packet)
        lane.put_back(failed, refused)
        return finished

    async def _settle(self, packet: Packet) -> None:
        """Count messages that arrived, then take them out of our own stream."""
        key, delivery = sent_key(self.site), packet.delivery
        ledger = self._desk.ledger
        try:
            await ledger.count(key, delivery.sequence, packet.marks)
            await delivery.done()
        except Transient as error:  # it comes again, and is recognised at both ends
            self._tell_postponed(error)
        else:
            ledger.closed(key, delivery.sequence)
            self.carried += packet.count
        finally:
            delivery.let_go()
            self._release(packet)

    def _tell_postponed(self, error: Transient) -> None:
        log.warning("message_postponed", extra={"site": self.site, "why": str(error)})

    def _fell_back(self, lane: Lane, passage: Passage, now: float) -> None:
        if not lane.pause:
            lane.down_since = now
            self._down_since = self._down_since or time.time()
            told = {"site": self.site, "target": lane.module, "kind": str(passage.kind)}
            log.warning("road_closed", extra=told | {"why": passage.text})
        self._why = f"{passage.kind}: {passage.text}"
        lane.pause = min(PAUSE_MOST, max(PAUSE_FIRST, lane.pause * 2))
        lane.next = now + lane.pause * random.uniform(0.5, 1.0)  # noqa: S311 - jitter

    def _came_through(self, lane: Lane) -> None:
        lane.pause = lane.next = 0.0
        if not any(other.pause for other in self._lanes.values()):
            self._down_since, self._why = 0.0, ""
        log.warning("road_open", extra={"site": self.site, "target": lane.module})
