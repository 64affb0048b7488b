"""A message that a pull has brought: what its ack subject tells, and what is said to the server."""

import re
from typing import Protocol

from scalebox_actors.broker.streams import NS
from scalebox_actors.broker.wire import command
from scalebox_actors.message import Raw, identify

_ACK_TOKENS = 9
_NAK = b'-NAK {"delay": %d}'
GIVE_BACK = _NAK % 1
"""Let it be delivered again at once. Without a delay a server that ends forgets that it was given
back, and waits, once it is there again, until `ack_wait` has passed."""


def ack_subjects(stream: str, consumer: str) -> re.Pattern[bytes]:
    """Return what the reply subjects of a consumer's deliveries look like.

    What we publish is chosen by them. A forged delivery may not choose another consumer's.
    """
    own = f"{re.escape(stream)}[.]{re.escape(consumer)}"
    later = "[^.*>]+[.][^.*>]+[.]"
    return re.compile(rf"\$JS[.]ACK[.](?:{later})?{own}(?:[.][0-9]+){{5}}(?:[.][^.*>]+)?".encode())


class Keeper(Protocol):
    """Who has deliveries in hand, and speaks for them."""

    @property
    def stream_created(self) -> str:
        """When the stream was made: a part of the ids of messages that have none."""

    async def settle(self, delivery: "PulledDelivery", body: bytes) -> None:
        """Say to the server what became of a delivery, until it has confirmed that."""

    def forget(self, delivery: "PulledDelivery") -> None:
        """Say nothing more about a delivery."""


class PulledDelivery:
    """A message in our hands; see the port."""

    __slots__ = ("_intake", "_tokens", "forgotten", "message_id", "raw", "reply")

    def __init__(self, intake: Keeper, raw: Raw, reply: bytes) -> None:
        tokens = reply.split(b".")
        # With the ack subjects of a later server, domain and account hash come after `ACK`.
        self._tokens = tokens[2:] if len(tokens) == _ACK_TOKENS else tokens[4:]
        self._intake = intake
        self.reply = reply.decode()
        self.raw = raw
        self.forgotten = False
        """Whether the server has lost, in a crash, that it handed this out."""
        self.message_id = identify(raw, intake.stream_created, self.sequence)

    @property
    def sequence(self) -> int:
        """Its place in the stream."""
        return int(self._tokens[3])

    @property
    def turn(self) -> int:
        """The how-manieth delivery of its consumer it is."""
        return int(self._tokens[4])

    @property
    def redelivered(self) -> bool:
        """Whether it may have been in somebody's hands before."""
        return self._tokens[2] != b"1"

    @property
    def stored(self) -> float:
        """When the server stored it, by the server's clock."""
        return int(self._tokens[5]) / NS

    @property
    def beat(self) -> bytes:
        """The command that tells the server that we are still working on it."""
        return command(self.reply, "", b"", b"+WPI")

    async def done(self) -> None:
        """Take the message out of the stream; returns when the server has confirmed it."""
        await self._intake.settle(self, b"+ACK")

    async def give_back(self, delay: float) -> None:
        """Let it be delivered again after `delay`."""
        await self._intake.settle(self, _NAK % max(1, round(delay * NS)))

    def let_go(self) -> None:
        """Say nothing more about it: it is delivered again when its `ack_wait` has passed."""
        self._intake.forget(self)
