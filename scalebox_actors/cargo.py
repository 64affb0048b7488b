"""What a courier has in its hands: deliveries, the messages in them, and the lanes they wait in.

A delivery is one message or a parcel of them. Its messages go their own ways across the link; it
is acked when all of them have arrived.
"""

from collections import OrderedDict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain

import msgspec

from scalebox_actors.crossing import CARRIED, mark
from scalebox_actors.errors import BadMessage
from scalebox_actors.message import MSG_ID, Raw
from scalebox_actors.names import Names, bound_for, digest, is_id, is_reserved_id
from scalebox_actors.parcel import unpack
from scalebox_actors.ports import Delivery, Entry

IN_HAND, IN_HAND_BYTES = 8192, 32 * 1024 * 1024
"""Messages of one link in the hands of one courier, and bytes; it asks for no more above them."""
PART = 8
"""The how-manieth part of its hands a module may fill that is absent there while others arrive."""
OVERHEAD = 400
"""Bytes that headers and subject of a message are taken for."""


class Packet(msgspec.Struct, eq=False):
    """A delivery in our hands, and how far its messages have come."""

    delivery: Delivery
    count: int = 0
    """How many of them have to arrive."""
    size: int = 0
    arrived: int = 0
    flying: int = 0
    """How many are on their way."""
    marks: list[int] = []

    @property
    def complete(self) -> bool:
        """Whether all have arrived."""
        return self.arrived == self.count

    @property
    def untouched(self) -> bool:
        """Whether none is on its way and none has arrived, as far as we have heard."""
        return not (self.arrived or self.flying)


class Item(msgspec.Struct, eq=False):
    """A message in our hands, as it will be handed over."""

    packet: Packet
    entry: Entry
    size: int
    place: int
    """Which of the messages in its delivery it is."""


class Unreadable(msgspec.Struct, frozen=True):
    """A message that nobody at the other site could read either."""

    raw: Raw
    id: str


class Lane:
    """The messages for one module at the other site."""

    def __init__(self, module: str, priority: int) -> None:
        self.module, self.priority = module, priority
        self.items: deque[Item] = deque()
        self.size = 0
        self.pause = 0.0
        """How long it waits before it knocks again; 0 while messages arrive."""
        self.next = 0.0
        self.knocking = False
        self.down_since = 0.0
        self.doubt = 1.0
        """See `Window`."""

    @property
    def crowded(self) -> bool:
        """Whether it fills more of a courier's hands than it may while its module is absent."""
        return len(self.items) >= IN_HAND // PART or self.size >= IN_HAND_BYTES // PART

    def closed(self, now: float) -> float:
        """Return for how long nothing of it has arrived; 0 while its road is open."""
        return now - self.down_since if self.pause else 0.0

    def add(self, items: list[Item]) -> None:
        """Let messages go last."""
        self.items.extend(items)
        self.size += sum(item.size for item in items)

    def load(self, messages: int, room: int) -> list[Item]:
        """Take from its head what goes together: at least one message."""
        load = [self.items.popleft()]
        size = load[0].size
        while self.items and len(load) < messages and size + self.items[0].size <= room:
            size += self.items[0].size
            load.append(self.items.popleft())
        for item in load:
            item.packet.flying += 1
        self.size -= size
        return load

    def put_back(self, items: list[Item], refused: list[Item]) -> None:
        """Let messages that did not arrive go first, but those refused last: others may pass."""
        self.items.extendleft(reversed(items))
        self.size += sum(item.size for item in items)
        self.add(refused)

    def spare(self) -> list[Packet]:
        """Return deliveries of which nothing is underway, the last of them: a part of our hands."""
        messages, size = IN_HAND // PART, IN_HAND_BYTES // PART
        found: dict[Packet, None] = {}
        for item in reversed(self.items):
            packet = item.packet
            if messages <= 0 or size <= 0:
                break
            if packet.untouched and packet not in found:
                found[packet] = None
                messages -= packet.count
                size -= packet.size
        return list(found)

    def drop(self, packets: Collection[Packet]) -> None:
        """Forget the messages of some deliveries."""
        gone = set(packets)
        self.items = deque(item for item in self.items if item.packet not in gone)
        self.size = sum(item.size for item in self.items)


def departed(
    packets: Iterable[Packet], lanes: Iterable[Lane], meant: Mapping[int, Collection[int]]
) -> dict[Packet, list[int]]:
    """Return of each delivery with something that is meant, what of that waits in no lane.

    That is on its way, or there. One that got no answer waits, and counts as not there, as far as
    we have heard.
    """
    waiting: dict[Packet, set[int]] = {p: set() for p in packets if p.delivery.sequence in meant}
    for item in chain.from_iterable(lane.items for lane in lanes):
        if item.packet in waiting:
            waiting[item.packet].add(item.place)
    return {
        packet: [place for place in meant[packet.delivery.sequence] if place not in here]
        for packet, here in waiting.items()
    }


class Hold:
    """All deliveries in the hands of a courier."""

    def __init__(self) -> None:
        self.packets: set[Packet] = set()
        self.messages = self.size = 0

    @property
    def full(self) -> bool:
        """Whether there is no room for more."""
        return self.messages >= IN_HAND or self.size >= IN_HAND_BYTES

    def add(self, packet: Packet) -> None:
        """Take one in hand."""
        self.packets.add(packet)
        self.messages += packet.count
        self.size += packet.size

    def remove(self, packet: Packet) -> bool:
        """Let go of one; False if it was not there."""
        if packet not in self.packets:
            return False
        self.packets.discard(packet)
        self.messages -= packet.count
        self.size -= packet.size
        return True


class Withdrawn:
    """Places of messages that were taken back, and may be on their way to us all the same.

    Every courier of a site is told of every such place, and few ever come: they are forgotten
    after `seconds`, when whatever was on its way has arrived.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._told: OrderedDict[int, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._told)

    def add(self, places: Iterable[int], now: float) -> None:
        """Expect some, the newest last, and forget the old."""
        for place in places:
            self._told.pop(place, None)
            self._told[place] = now
        while self._told and now - next(iter(self._told.values())) > self._seconds:
            self._told.popitem(last=False)

    def take(self, place: int) -> bool:
        """Whether one was expected; it is not any more."""
        return self._told.pop(place, None) is not None


def opened(delivery: Delivery, here: Names, there: Names) -> tuple[list[Item], list[Unreadable]]:
    """Return the messages in a delivery that can be handed over, and those that cannot."""
    bound = bound_for(delivery.raw.subject)
    raws: list[tuple[Raw, str]] = []
    if not bound.parcel:
        raws = [(delivery.raw, delivery.message_id)]
    else:
        try:
            inside = unpack(delivery.raw, bound.count)
        except BadMessage as error:
            whole = msgspec.structs.replace(delivery.raw, fault=str(error))
            return [], [Unreadable(whole, delivery.message_id)]
        raws = [(raw, _id(raw, delivery, place)) for place, raw in enumerate(inside)]
    packet = Packet(delivery)
    items = list(_items(packet, raws, here, there.task(bound.module)))
    return items, [Unreadable(raw, given) for raw, given in raws if raw.fault]


def _items(
    packet: Packet, raws: list[tuple[Raw, str]], here: Names, subject: str
) -> Iterator[Item]:
    module = subject.rpartition(".")[2]
    for place, (raw, given) in enumerate(raws):
        if raw.fault:
            continue
        # The same whenever it comes: an id of this form is taken from nobody over there.
        message_id = digest("carried", here.site, given) if is_reserved_id(given) else given
        # A stored member of a batch still says so; over there it would be one of a broken batch.
        headers = {n: value for n, value in raw.headers.items() if not n.startswith("Nats-")}
        headers[MSG_ID], headers[CARRIED] = message_id, here.site
        entry = Entry(subject=subject, body=raw.body, headers=headers)
        size = len(raw.body) + OVERHEAD
        packet.count += 1
        packet.size += size
        packet.marks.append(mark(module, message_id, raw.body))
        yield Item(packet, entry, size, place)


def _id(raw: Raw, delivery: Delivery, place: int) -> str:
    """Return the id of a message in a parcel; one without is named by its place in it."""
    given = raw.headers.get(MSG_ID, "")
    if is_id(given) and not is_reserved_id(given):
        return given
    return "_" + digest(delivery.message_id, place)
