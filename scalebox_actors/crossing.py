"""What crosses a link: answers of the other site, tallies of both ends, and how fast it may go.

Pure. The clock is an argument, so that tests own it.
"""

import hashlib
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from enum import StrEnum

import msgspec

from scalebox_actors.topology.model import Link

CARRIED = "Sbx-Carried"
"""The header in which a courier names the site that it took a message from."""

WINDOW_FIRST, WINDOW_LEAST, WINDOW_MOST = 64 * 1024, 16 * 1024, 16 * 1024 * 1024
"""Bytes on their way that are not answered yet."""
QUICK, SLOW = 1.0, 2.0
"""Seconds for an answer under which the window grows, and over which it shrinks."""

PACE_FIRST, PACE_LEAST, PACE_MOST = 2.0**-16, 2.0**-20, 2.0**-14
"""Seconds that a byte may take, besides what any answer may: 64 KiB a second until something large
was seen to cross, then between 1 MiB and 16 KiB a second."""
LATEST = 15.0
"""Seconds after which nothing can be answered: behind what takes so long the servers' pings wait,
and they have closed the link."""
TELLING = 16 * 1024
"""Bytes from which on an answer tells how fast the road is."""

_HASH_BYTES = 16
_MODULUS = 1 << (8 * _HASH_BYTES)


class Passed(StrEnum):
    """What became of a message that was handed to another site."""

    ARRIVED = "arrived"
    """Stored there and synced to disk, now or when it was handed over before."""
    ABSENT = "absent"
    """Nobody answers there: the link is down, or the module is not deployed. Nothing stored."""
    SILENT = "silent"
    """No answer in time: it may be stored or not, so it must be handed over again."""
    FULL = "full"
    """The other stream takes nothing for now. Nothing stored."""
    REFUSED = "refused"
    """Denied, or too large for the other site: a person must see to it. Nothing stored."""


class Passage(msgspec.Struct, frozen=True):
    """The answer of another site to one message."""

    kind: Passed
    text: str = ""


class RoadStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How the road to another site is, as one courier sees it."""

    site: str
    carried: int
    in_hand: int
    down_since: float
    """When it was last found closed, in seconds since the epoch; 0 while it is open."""
    why: str = ""


# --- tallies ------------------------------------------------------------------------------------


class Tally(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How many different messages crossed a link in one direction, and a hash of them all.

    The hash is the sum of the messages' own hashes, so both ends get the same whatever the
    order, and the tallies of several nodes can be added.
    """

    count: int = 0
    hash: str = "0" * (2 * _HASH_BYTES)
    open: tuple[int, ...] = ()
    """Places in the stream of messages that are counted and may not be gone from it yet."""

    def plus(self, marks: Iterable[int]) -> "Tally":
        """Return the tally with more messages, of which we have the marks."""
        marks = list(marks)
        total = (int(self.hash, 16) + sum(marks)) % _MODULUS
        return msgspec.structs.replace(self, count=self.count + len(marks), hash=_hex(total))

    def added(self, other: "Tally") -> "Tally":
        """Return the two tallies as one."""
        total = (int(self.hash, 16) + int(other.hash, 16)) % _MODULUS
        return Tally(count=self.count + other.count, hash=_hex(total))


def mark(module: str, message_id: str, body: bytes) -> int:
    """Return a message's own hash, the same at both ends of the link."""
    head = f"{module}\0{message_id}\0".encode("ascii", "backslashreplace")
    return int.from_bytes(hashlib.sha256(head + body).digest()[:_HASH_BYTES], "big")


def sent_key(site: str) -> str:
    """`link.to.D`: under it, each node's tally of what it carried to a site."""
    return f"link.to.{site}"


def received_key(site: str) -> str:
    """`link.from.S`: under it, each node's tally of what came from a site and was settled."""
    return f"link.from.{site}"


def _hex(number: int) -> str:
    return f"{number:0{2 * _HASH_BYTES}x}"


# --- how fast -----------------------------------------------------------------------------------


class Window:
    """How many bytes may be on their way: it grows while answers are quick, else it shrinks.

    On a slow link a wide window would let answers be late, and what is late is sent twice. What is
    large is given time in proportion to its bytes, as the road was seen to need: given up too early
    it queues behind itself and never crosses, too late it is missed after a cut. `doubt` is how
    many times more than that it is given, since there was no answer in less.
    """

    def __init__(self) -> None:
        self.size = float(WINDOW_FIRST)
        self.flying = 0
        self._shrunk = 0.0
        self._pace = PACE_FIRST

    def patience(self, size: int, doubt: float) -> float:
        """Return how many seconds more than a small message so many bytes may take."""
        return min(LATEST, size * min(PACE_MOST, self._pace * doubt))

    def room(self) -> int:
        """Return how many bytes more may go now."""
        return max(0, round(self.size) - self.flying)

    def sent(self, size: int) -> None:
        """Note bytes that go."""
        self.flying += size

    def heard(
        self, kinds: AbstractSet[Passed], size: int, seconds: float, now: float, doubt: float
    ) -> float:
        """Note what became of bytes that went `seconds` ago; returns the doubt from now on."""
        if Passed.SILENT in kinds:
            self.lost(size, now)
            return doubt if size < TELLING else min(2 * doubt, PACE_MOST / PACE_LEAST)
        self.answered(size, seconds, now)
        if Passed.ABSENT in kinds:
            return 1.0  # what was silent before was cut off, and not slow
        if kinds != {Passed.ARRIVED} or size < TELLING:
            return doubt
        enough = min(self._pace * doubt, 2 * seconds / size)
        self._pace = min(PACE_MOST, max(PACE_LEAST, enough))
        return 1.0

    def answered(self, size: int, seconds: float, now: float) -> None:
        """Note the answer to bytes that went `seconds` ago."""
        self.flying -= size
        if seconds < QUICK:
            self.size = min(WINDOW_MOST, self.size + size)
        elif seconds > SLOW:
            self._shrink(now, seconds)

    def lost(self, size: int, now: float) -> None:
        """Note bytes that got no answer."""
        self.flying -= size
        self._shrink(now, SLOW)

    def _shrink(self, now: float, seconds: float) -> None:
        """Halve it, but once only for all that was on its way at the same time."""
        if now - self._shrunk > seconds:
            self._shrunk = now
            self.size = max(WINDOW_LEAST, self.size / 2)


class Bucket:
    """A token bucket: on average `rate` a second, and never more than a moment's worth at once."""

    def __init__(self, rate: float, *, moment: float = 0.25) -> None:
        self.rate = rate
        self._most = self._left = rate * moment
        self._since = 0.0

    def turn(self, rate: float, *, moment: float = 0.25) -> None:
        """Go on at another rate."""
        self.rate, self._most = rate, rate * moment
        self._left = min(self._left, self._most)

    def delay(self, now: float) -> float:
        """Return how long to wait before anything more may be taken."""
        self._fill(now)
        return max(0.0, -self._left / self.rate)

    def left(self, now: float) -> float:
        """Return how much may be taken now; one message may always overdraw it."""
        self._fill(now)
        return max(1.0, self._left)

    def take(self, amount: float) -> None:
        """Take tokens; what is taken too much has to be waited for afterwards."""
        self._left -= amount

    def _fill(self, now: float) -> None:
        if self._since:
            self._left = min(self._most, self._left + (now - self._since) * self.rate)
        self._since = now


class Toll:
    """What a node may send over the link of its site: its share of `rate` and `bandwidth`.

    All its couriers pay here, wherever they carry to.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._rate = Bucket(link.rate) if link.rate else None
        self._bandwidth = Bucket(float(link.bandwidth)) if link.bandwidth else None

    @property
    def limited(self) -> bool:
        """Whether there is anything to share."""
        return self._rate is not None or self._bandwidth is not None

    def share(self, nodes: int) -> None:
        """Leave to each of so many nodes an equal part."""
        if self._rate is not None and self._link.rate:
            self._rate.turn(self._link.rate / nodes)
        if self._bandwidth is not None and self._link.bandwidth:
            self._bandwidth.turn(self._link.bandwidth / nodes)

    def room(self, messages: int, size: int, now: float) -> tuple[int, int]:
        """Return how many messages and bytes may go now, of so many that could."""
        if self._rate is not None:
            messages = min(messages, round(self._rate.left(now)))
        if self._bandwidth is not None:
            size = min(size, round(self._bandwidth.left(now)))
        return messages, size

    def pay(self, messages: int, size: int, now: float) -> float:
        """Note what goes, and return how long to wait before anything more does."""
        wait = 0.0
        for bucket, amount in ((self._rate, messages), (self._bandwidth, size)):
            if bucket is not None:
                bucket.take(amount)
                wait = max(wait, bucket.delay(now))
        return wait
