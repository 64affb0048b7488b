"""A link: one requester with one inbox over one connection, and whoever else listens on it.

A request is a number in a dictionary and a line on the wire: no task, no subscription and no
timer of its own. It is repeated until it is answered, over reconnects and restarts of the server.
"""

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Mapping
from secrets import token_hex

import msgspec
from nats import errors as nats_errors

from scalebox_actors.broker.client import (
    Client,
    ConnectionLost,
    Events,
    NoResponders,
    Receiver,
    error_of,
)
from scalebox_actors.broker.outbox import Outbox
from scalebox_actors.broker.wire import (
    STATUS_NO_RESPONDERS,
    Reply,
    command,
    header_block,
    read_reply,
)
from scalebox_actors.errors import BadMessage, NotPermitted, Unavailable
from scalebox_actors.limits import NATS_REQUEST

WINDOW = 4096
"""Requests in flight at most."""
ABSENT_SECONDS = 5.0
"""How long nobody may answer a subject before a request that asks for it gives up."""

_TICK = 0.1
_CLOSE = 5.0
_ABSENT_AGAIN = 0.25
_DENIED = re.compile(r'permissions violation for (?:publish|subscription) to "([^"]+)"')
_TEMPORARILY_UNAVAILABLE = 10008
_decode = msgspec.json.Decoder(dict[str, object]).decode
_encode = msgspec.json.Encoder().encode


class _Waiting(msgspec.Struct, eq=False, gc=False):
    """A request on its way; an empty command is not sent again by us."""

    answer: "asyncio.Future[Reply]"
    subject: str
    command: bytes
    due: float
    patience: float
    tries: float = float("inf")
    absent_since: float = 0.0
    replies: list[Reply] | None = None


class Link:
    """A connection to one nats-server; made by `connect`."""

    def __init__(self, client: Client, events: Events) -> None:
        self._client = client
        self.events = events
        self._inbox = self.new_inbox()
        self._cut = len(self._inbox) + 1
        self._waiting: dict[str, _Waiting] = {}
        self._window = asyncio.Semaphore(WINDOW)
        self._loop = asyncio.get_running_loop()
        self._outbox = Outbox(client.send, self._lose_tickets)
        self._up = asyncio.Event()
        self._closed = ""
        self._ticker: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.watchers: set[Callable[[bool], None]] = set()
        """Called with True after a reconnect and with False when the connection is lost."""

    # --- state ------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as far as can be known without a round trip."""
        return self._up.is_set() and not self._closed

    @property
    def closed(self) -> str:
        """Why the connection has ended for good; empty while it has not."""
        return self._closed

    @property
    def max_payload(self) -> int:
        """The largest message that the server takes, headers included."""
        return int(self._client.max_payload)

    @property
    def domain(self) -> str:
        """The server's JetStream domain; empty if it has none."""
        return str(self._client._server_info.get("domain", ""))  # noqa: SLF001 - not shown

    @property
    def server_id(self) -> str:
        """The name by which the server answers for itself alone."""
        return str(self._client._server_info.get("server_id", ""))  # noqa: SLF001 - not shown

    async def up(self) -> None:
        """Wait for a connection; raises Unavailable if there will be none."""
        await self._up.wait()
        self._check_open()

    async def close(self) -> None:
        """End the connection; whoever waits for an answer gets Unavailable."""
        self._outbox.flush()
        self.ended("closed by us")
        # Of a server that was killed it may never return.
        await asyncio.wait([asyncio.create_task(self._client.close())], timeout=_CLOSE)

    # --- sending ----------------------------------------------------------------------------

    def post(self, data: bytes, *, soon: bool = True) -> None:
        """Send a command, with others of this moment; lost if disconnected."""
        self._outbox.post(data, soon=soon)

    def publish(self, subject: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send a message without asking for an answer."""
        block = header_block(headers) if headers else b""
        self.check_size(len(block) + len(body))
        self.post(command(subject, "", block, body))

    def check_size(self, size: int) -> None:
        """Raise BadMessage for what is too large: sent, it would end the connection for good."""
        if size > self.max_payload:
            raise BadMessage(
                f"a message of {size} bytes with its headers; "
                f"the server takes at most {self.max_payload}"
            )

    async def call(
        self,
        subject: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        patience: float = float("inf"),
        tries: float = float("inf"),
        soon: bool = True,
    ) -> Reply:
        """Send a request until it is answered: at least once, so it must be safe to repeat.

        Raises NoResponders once nobody was there for `patience` seconds, ConnectionLost after
        `tries` times without an answer over a working connection, NotPermitted if the server
        denies the subject, Unavailable if the connection has ended for good.
        """
        block = header_block(headers) if headers else b""
        self.check_size(len(block) + len(body))
        async with self._window:
            self._check_open()
            number = token_hex(8)
            data = command(subject, f"{self._inbox}.{number}", block, body)
            waiting = self._expect(number, subject, data, patience)
            waiting.tries = tries
            self.post(data, soon=soon)
            try:
                return await waiting.answer
            finally:
                del self._waiting[number]

    async def call_once(self, subject: str, body: bytes, seconds: float) -> Reply:
        """Send a request at most once, for what must not be done twice.

        Raises NoResponders if nobody is there, ConnectionLost if no answer came in time: whether
        it was done is then not known.
        """
        await self.up()
        reply, answer = self.ticket(subject, seconds)
        self.post(command(subject, reply, b"", body))
        return await answer

    async def api(self, verb: str, request: object = None) -> dict[str, object]:
        """Ask the JetStream API and return its answer; raises ApiError if it says no."""
        body = b"" if request is None else _encode(request)
        while True:
            reply = await self.call(f"$JS.API.{verb}", body, patience=ABSENT_SECONDS)
            answer = _decode(reply.body)
            error = error_of(answer)
            if error is None:
                return answer
            if error.number != _TEMPORARILY_UNAVAILABLE:
                raise error
            await asyncio.sleep(_ABSENT_AGAIN)

    async def collect(
        self, subject: str, body: bytes, *, seconds: float = 2 * NATS_REQUEST, ends: bool = True
    ) -> list[Reply]:
        """Send one request and return all its answers, up to one that has a status.

        With `ends` the last answer must be a status, and ConnectionLost is raised if none came
        in time; else whatever came in `seconds` is returned.
        """
        await self.up()
        replies: list[Reply] = []
        number = token_hex(8)
        waiting = self._expect(number, subject, b"", 0.0)
        waiting.due = float("inf")
        waiting.replies = replies
        self.post(command(subject, f"{self._inbox}.{number}", b"", body))
        try:
            async with asyncio.timeout(seconds):
                await waiting.answer
        except TimeoutError:
            if ends:
                raise ConnectionLost(f"no answer on {subject} in {seconds:g} s") from None
        except ConnectionLost:
            # Who drains the node that owns the server is answered, and then cut off.
            if ends or not replies:
                raise
        finally:
            del self._waiting[number]
        return replies

    def ticket(self, subject: str, seconds: float) -> tuple[str, "asyncio.Future[Reply]"]:
        """Return a reply subject and its future, for a request that we do not repeat.

        The future ends with ConnectionLost when the connection breaks or `seconds` have passed.
        """
        number = token_hex(8)
        waiting = self._expect(number, subject, b"", 0.0)
        waiting.due = self._loop.time() + seconds
        waiting.answer.add_done_callback(lambda _: self._waiting.pop(number, None))
        return f"{self._inbox}.{number}", waiting.answer

    def give_up(self, subjects: set[str], error: Exception) -> None:
        """End the requests to these subjects with an error: they will not be answered."""
        for waiting in list(self._waiting.values()):
            if waiting.subject in subjects:
                _fail(waiting, error)

    # --- receiving --------------------------------------------------------------------------

    def new_inbox(self) -> str:
        """Return a subject that nobody else uses, and that nobody can guess."""
        # Counted up, as nats-py's and numbers of requests would be, whoever was sent one with a
        # question would know the next, and could answer what was asked of the server.
        prefix = self._client._inbox_prefix.decode()  # noqa: SLF001 - not shown
        return f"{prefix}.{token_hex(12)}"

    async def subscribe(self, subject: str, receiver: Receiver) -> int:
        """Hand every message on `subject` to `receiver`; returns a number to unsubscribe."""
        sid = int(self._client._sid) + 1  # noqa: SLF001 - the number that subscribe() will give
        self._client.receivers[sid] = receiver
        subscription = await self._client.subscribe(subject)
        # nats-py writes it in a later turn. A request for messages that overtakes it finds nobody
        # interested, and is lost without a word.
        await self._client._flush_pending(force_flush=True)  # noqa: SLF001
        if subscription._id != sid:  # noqa: SLF001
            raise Unavailable("nats-py numbers its subscriptions in an unknown way")
        return sid

    def unsubscribe(self, sid: int) -> None:
        """Stop; messages that are on their way still reach the receiver for a moment."""
        self.spawn(self._unsubscribe(sid))

    def spawn(self, work: Awaitable[None]) -> None:
        """Run something in the background until the link is closed."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._reap)

    # --- what nats-py tells us --------------------------------------------------------------

    async def start(self) -> None:
        """Open the inbox; called once by `connect`."""
        await self.subscribe(f"{self._inbox}.*", self._received)
        self._up.set()
        self._tick()

    def lost(self) -> None:
        """Note that the connection broke; nats-py is already making another."""
        if not self._up.is_set() or self._closed:
            return
        self._up.clear()
        self.events("disconnected", "the connection to NATS was lost; reconnecting")
        self._lose_tickets()
        self._tell(up=False)

    def back(self) -> None:
        """Note that there is a connection again, and repeat what was not answered."""
        self._up.set()
        self.events("reconnected", "the connection to NATS is back")
        due = self._loop.time() + NATS_REQUEST
        for waiting in self._waiting.values():
            if waiting.command:
                waiting.due = due
                self.post(waiting.command)
        self._tell(up=True)

    def ended(self, reason: str) -> None:
        """Note that there will be no connection again."""
        if self._closed:
            return
        self._closed = reason
        self._up.set()  # whoever waits for a connection is told that there will be none
        if self._ticker is not None:
            self._ticker.cancel()
        for waiting in list(self._waiting.values()):
            _fail(waiting, Unavailable(f"the connection to NATS has ended: {reason}"))
        for task in self._tasks:
            task.cancel()
        self._tell(up=False)

    def failed(self, error: Exception) -> None:
        """Note an error of nats-py; a denied request gets its answer here and nowhere else."""
        text = str(error) or type(error).__name__
        denied = _DENIED.search(text.lower())
        self.events("denied" if denied else "nats_error", text)
        if denied:
            for waiting in list(self._waiting.values()):
                if waiting.subject.lower() == denied.group(1):
                    _fail(waiting, NotPermitted(f"the server denies {waiting.subject}"))

    # --- inside -----------------------------------------------------------------------------

    def _expect(self, number: str, subject: str, data: bytes, patience: float) -> _Waiting:
        due = self._loop.time() + NATS_REQUEST
        waiting = _Waiting(self._loop.create_future(), subject, data, due, patience)
        self._waiting[number] = waiting
        return waiting

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable(f"the connection to NATS has ended: {self._closed}")

    def _received(self, subject: bytes, _: bytes, body: bytes, block: bytes | None) -> None:
        waiting = self._waiting.get(subject[self._cut :].decode())
        if waiting is None or waiting.answer.done():
            return
        reply = read_reply(block, body)
        if reply.status == STATUS_NO_RESPONDERS and waiting.replies is None:
            self._absent(waiting)
        elif waiting.replies is None or reply.status:
            if waiting.replies is not None:
                waiting.replies.append(reply)
            waiting.answer.set_result(reply)
        else:
            waiting.replies.append(reply)

    def _absent(self, waiting: _Waiting) -> None:
        now = self._loop.time()
        waiting.absent_since = waiting.absent_since or now
        if now - waiting.absent_since >= waiting.patience:
            _fail(waiting, NoResponders(f"nobody answers on {waiting.subject}"))
        waiting.due = now + _ABSENT_AGAIN

    def _tick(self) -> None:
        """Repeat what was not answered in time; a lost answer is noticed nowhere else."""
        self._ticker = self._loop.call_later(_TICK, self._tick)
        if not self._waiting or not self._up.is_set():
            return
        now = self._loop.time()
        for waiting in list(self._waiting.values()):
            if waiting.due > now or waiting.answer.done():
                continue
            waiting.tries -= 1
            if waiting.command and waiting.tries > 0:
                waiting.due = now + NATS_REQUEST
                self.post(waiting.command)
            else:
                _fail(waiting, ConnectionLost(f"no answer on {waiting.subject}"))

    def _lose_tickets(self) -> None:
        for waiting in list(self._waiting.values()):
            if not waiting.command:
                _fail(waiting, ConnectionLost())

    def _tell(self, *, up: bool) -> None:
        for watcher in list(self.watchers):
            watcher(up)

    def _reap(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.events("background_failed", repr(task.exception()))

    async def _unsubscribe(self, sid: int) -> None:
        subscription = self._client._subs.get(sid)  # noqa: SLF001 - no public way to look it up
        with contextlib.suppress(nats_errors.Error, TimeoutError):
            if subscription is not None:
                await subscription.unsubscribe()
                await self._client.flush(timeout=60)
        self._client.receivers.pop(sid, None)


def _fail(waiting: _Waiting, error: Exception) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(error)
