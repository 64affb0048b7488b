"""Reading what is stored: last messages, pages of a pattern, the state bucket, backlogs, time."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import msgspec

from scalebox_actors.broker.client import ApiError, ConnectionLost, NoResponders, error_of
from scalebox_actors.broker.link import ABSENT_SECONDS, Link
from scalebox_actors.broker.streams import STREAM_NOT_FOUND, count_subjects, stream_info
from scalebox_actors.broker.wire import STATUS_END, STATUS_NOT_FOUND, Reply
from scalebox_actors.errors import Transient, Unavailable
from scalebox_actors.limits import MIB
from scalebox_actors.message import MSG_TTL
from scalebox_actors.names import Names
from scalebox_actors.ports import Backlog, Stored

PAGE = 1000
PAGE_BYTES = 8 * MIB
_AGAIN = 0.25
_ADDED = frozenset(
    {
        "Nats-Stream",
        "Nats-Subject",
        "Nats-Sequence",
        "Nats-Time-Stamp",
        "Nats-Num-Pending",
        "Nats-Last-Sequence",
        "Nats-UpTo-Sequence",
        # Of the batch that stored it: sent again, they would be taken for a part of that one.
        "Nats-Batch-Id",
        "Nats-Batch-Sequence",
        "Nats-Batch-Commit",
        "Nats-Expected-Last-Subject-Sequence",
    }
)
"""Headers of the server's answer or of how it was written, not of the message."""
_decode = msgspec.json.Decoder(dict[str, object]).decode
_encode = msgspec.json.Encoder().encode


class Reader:
    """Reads the streams of one topology at one site."""

    def __init__(self, link: Link, names: Names) -> None:
        self._link = link
        self._names = names

    async def last(self, stream: str, subject: str) -> Stored | None:
        """Return the last message on a subject."""
        api = f"$JS.API.DIRECT.GET.{stream}.{subject}"
        reply = await self._link.call(api, patience=ABSENT_SECONDS)
        return stored(reply) if not reply.status else None

    async def pages(
        self,
        stream: str,
        pattern: str,
        *,
        start: int = 1,
        since: float = 0.0,
        most: int | None = None,
    ) -> AsyncIterator[list[Stored]]:
        """Give the messages on matching subjects, oldest first, in pages that fit the memory."""
        left = most
        request: dict[str, object] = {"next_by_subj": pattern, "max_bytes": PAGE_BYTES}
        request |= {"start_time": rfc3339(since)} if since else {"seq": max(1, start)}
        while left is None or left > 0:
            request["batch"] = PAGE if left is None else min(PAGE, left)
            page, more = await self._page(stream, request)
            if page:
                yield page
                left = None if left is None else left - len(page)
                request.pop("start_time", None)
                request["seq"] = page[-1].sequence + 1
            if not more:
                return

    async def value(self, bucket: str, key: str) -> bytes | None:
        """Return the value of a key, or None if it was never set, deleted or has expired."""
        found = await self.last(f"KV_{bucket}", f"$KV.{bucket}.{key}")
        if (
            found is None
            or "KV-Operation" in found.headers
            or "Nats-Marker-Reason" in found.headers
        ):
            return None
        return found.body

    async def put(self, bucket: str, key: str, value: bytes, *, life: float = 0.0) -> None:
        """Set a key, for `life` seconds unless 0; waits while the server cannot take it."""
        headers = {MSG_TTL: f"{max(1, round(life))}s"} if life > 0 else {}
        while True:
            reply = await self._link.call(
                f"$KV.{bucket}.{key}", value, headers, patience=ABSENT_SECONDS
            )
            error = error_of(_decode(reply.body))
            if error is None:
                return
            if error.code < 500:  # noqa: PLR2004 - as in HTTP: from here on it is the server's fault
                raise error
            self._link.events("state_waits", f"{bucket}: {error}")
            await asyncio.sleep(_AGAIN)

    async def purge(self, pattern: str, *, keep: int = 0, before: int = 0) -> None:
        """Remove messages of a pattern: all, all but some of each subject, or those before one."""
        verb = f"STREAM.PURGE.{self._names.stream}"
        if before:
            await self._link.api(verb, {"filter": pattern, "seq": before})
        elif not keep:
            await self._link.api(verb, {"filter": pattern})
        else:
            counts = await count_subjects(self._link, self._names.stream, pattern)
            for subject in (s for s, count in counts.items() if count > keep):
                await self._link.api(verb, {"filter": subject, "keep": keep})

    async def backlog(self, consumer: str) -> Backlog:
        """Return how much waits at a consumer."""
        info = msgspec.convert(
            await self._link.api(f"CONSUMER.INFO.{self._names.stream}.{consumer}"),
            _ConsumerInfo,
        )
        until = timestamp(info.config.pause_until) if info.paused else 0.0
        return Backlog(info.num_pending, info.num_ack_pending, until)

    async def clock(self) -> float:
        """Return the server's time."""
        info = await stream_info(self._link, self._names.stream)
        if info is None:
            raise Unavailable(f"there is no stream {self._names.stream}")
        return timestamp(info.ts)

    async def _page(self, stream: str, request: dict[str, object]) -> tuple[list[Stored], bool]:
        """Return one page, and whether there may be more after it."""
        body = _encode(request)
        while True:
            try:
                replies = await self._link.collect(f"$JS.API.DIRECT.GET.{stream}", body)
            except ConnectionLost:
                continue
            end = replies.pop()
            if end.status in (STATUS_END, STATUS_NOT_FOUND):
                page = [stored(reply) for reply in replies]
                return page, end.headers.get("Nats-Num-Pending", "0") != "0"
            await self._check_stream(stream, end)
            await asyncio.sleep(_AGAIN)

    async def _check_stream(self, stream: str, end: Reply) -> None:
        """Raise if asking again will not help."""
        try:
            await self._link.api(f"STREAM.INFO.{stream}")
        except ApiError as error:
            if error.number == STREAM_NOT_FOUND:
                raise Unavailable(f"there is no stream {stream}") from None
            raise
        except NoResponders:
            return
        if end.status < 500 and end.status != 408:  # noqa: PLR2004 - 408: the server was busy
            raise Transient(f"stream {stream} cannot be read: {end.status} {end.text}")


class _ConsumerConfig(msgspec.Struct):
    pause_until: str = ""


class _ConsumerInfo(msgspec.Struct):
    num_pending: int
    num_ack_pending: int
    config: _ConsumerConfig
    paused: bool = False


def stored(reply: Reply) -> Stored:
    """Return the message in the answer to a direct get."""
    headers = reply.headers
    return Stored(
        subject=headers.get("Nats-Subject", ""),
        body=reply.body,
        headers={name: value for name, value in headers.items() if name not in _ADDED},
        sequence=int(headers.get("Nats-Sequence", "0")),
        time=timestamp(headers.get("Nats-Time-Stamp", "")),
    )


def timestamp(text: str) -> float:
    """Return the seconds since the epoch of a time as the server writes it, 0 for none."""
    return datetime.fromisoformat(text).timestamp() if text else 0.0


def rfc3339(seconds: float) -> str:
    """Return a time as the server reads it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
