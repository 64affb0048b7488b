"""nats-py's connection with its way of messages replaced by ours, and what can go wrong on it.

nats-py keeps the connection (handshake, pings, reconnects, resubscription). Messages do not take
its way through header parsing, queues and a task per subscription: a stored header block of a few
bytes would end its read loop for good, and ours is the faster way.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from nats.aio.client import Client as NatsClient
from nats.errors import Error as NatsError

from scalebox_actors.errors import Permanent, Unavailable

Receiver = Callable[[bytes, bytes, bytes, bytes | None], None]
"""Takes subject, reply subject, body and header block of a message as they came."""


class NoTls(NatsError):
    """A server speaks in the clear where it must not; one of nats-py's, which then reconnects."""


class Events(Protocol):
    """Where the adapter says what happens to it: a name, and a sentence."""

    def __call__(self, event: str, detail: str, /) -> None:
        """Take note; must not raise."""


class NoResponders(Unavailable):
    """Nobody answers on a subject: the stream or the consumer behind it is gone."""


class ConnectionLost(Unavailable):
    """The connection was lost before the answer came; whether it was done is not known."""


class ApiError(Permanent):
    """JetStream refuses a request; decide on `number`, its error code."""

    def __init__(self, number: int, code: int, text: str) -> None:
        super().__init__(f"{text} ({number})")
        self.number, self.code, self.text = number, code, text


def error_of(answer: Mapping[str, object]) -> ApiError | None:
    """Return the error in an answer of JetStream, if it is one."""
    error = answer.get("error")
    if not isinstance(error, dict):
        return None
    return ApiError(
        int(error.get("err_code", 0)),
        int(error.get("code", 0)),
        str(error.get("description", "")),
    )


class Client(NatsClient):
    """nats-py's connection with its way of messages replaced by ours."""

    def __init__(self, events: Events, *, tls: bool = False) -> None:
        super().__init__()
        self.receivers: dict[int, Receiver] = {}
        self.events = events
        self._needs_tls = tls

    def _connect_command(self) -> bytes:
        """Log in, but never in the clear where TLS is needed, whatever the server says it wants."""
        if self._needs_tls and not self._server_info.get("tls_required"):
            raise NoTls(
                "this server on another host speaks without TLS; give it a certificate, "
                "or say --insecure if the network between is trusted"
            )
        return bytes(super()._connect_command())

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None:
        receiver = self.receivers.get(sid)
        if receiver is None:
            return
        try:
            receiver(subject, reply, data, headers)
        except Exception as error:  # noqa: BLE001 - the read loop must outlive every message
            self.events("receiver_failed", f"{subject!r}: {error!r}")

    def drop_socket(self) -> None:
        """Close what a failed attempt to reconnect left open; nats-py would only forget it."""
        if self._transport is not None:
            self._transport.close()  # type: ignore[no-untyped-call]  # nats-py has no types there

    def send(self, data: bytes) -> bool:
        """Write to the socket now; False if there is none."""
        if self._status != NatsClient.CONNECTED or self._transport is None:
            return False
        try:
            self._transport.write(data)
        except (OSError, RuntimeError, AttributeError):
            return False  # it broke just now; the read loop sees that and reconnects
        return True
