"""Writing: atomic batches, and what their refusals mean.

A batch is written to the connection in one piece. Only its first and last members ask for an
answer. When the answer is lost the whole batch is sent again under a new name: members with an
expectation then conflict, which tells the caller that the first one was stored.
"""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from scalebox_actors.broker.client import ApiError, ConnectionLost, NoResponders, error_of
from scalebox_actors.broker.link import Link
from scalebox_actors.broker.streams import messages_on, stream_info
from scalebox_actors.broker.wire import Reply, command, header_lines, is_subject, matches
from scalebox_actors.errors import BadMessage, NotPermitted, Unavailable
from scalebox_actors.limits import BATCH_BYTES, BATCH_MESSAGES
from scalebox_actors.message import EXPECT_LAST, MSG_ID
from scalebox_actors.names import Names, digest
from scalebox_actors.ports import Entry, Refusal, Refused

SILENCE = 12.0
"""The server forgets a batch that is silent for 10 s; after this it is sent again."""
PROBES = 256
"""Questions for duplicates in flight."""

_CONFLICTS = {10071, 10164}
_DUPLICATE = 10201
_INCOMPLETE = 10176
_TOO_MANY_IN_FLIGHT = 10210
_FULL = 10077
_ROLLUP = 10111
_SERVER_FAULT = 500
_BATCH_HEADERS = 200
"""At most what expectation, batch name, number and commit mark add to a header block."""
_PAUSE_FIRST, _PAUSE_MOST = 0.02, 2.0
_decode = msgspec.json.Decoder(dict[str, object]).decode


class Injected(msgspec.Struct, frozen=True, kw_only=True):
    """What became of messages that were injected."""

    stored: int = 0
    duplicates: int = 0
    refused: tuple[tuple[int, str], ...] = ()
    """Places, from 0, and reasons of those that the broker does not take."""
    denied: bool = False
    """Whether some of them only our login may not store."""


class Writer:
    """Stores entries in the stream of a topology."""

    def __init__(self, link: Link, names: Names) -> None:
        self._link = link
        self._names = names
        self._batches = itertools.count(1)
        self._prefix = digest(link.new_inbox())[:12]

    async def write(self, entries: Sequence[Entry], *, soon: bool = True) -> Refusal | None:
        """Store all entries or none; see the port."""
        if not entries:
            return None
        fault = unfit(entries, self._link.max_payload)
        if fault:
            return Refusal(Refused.UNACCEPTABLE, fault)
        pauses, said, incomplete = _pauses(), "", False
        while True:
            refusal, reason = await self._try(entries, soon=soon)
            if not reason:
                return refusal
            if refusal is not None and incomplete and await self._is_to_blame(entries):
                return refusal
            incomplete = incomplete or refusal is not None
            if reason != said:
                said = reason
                self._link.events("write_waits", f"{self._names.stream}: {reason}")
            await asyncio.sleep(next(pauses))
            await self._link.up()

    async def inject(self, entries: Sequence[Entry]) -> Injected:
        """Store entries in batches, leaving out those that are stored already or not taken."""
        stored = duplicates = 0
        refused: list[tuple[int, str]] = []
        denied = False
        groups = list(reversed(_groups(entries)))
        while groups:
            places = groups.pop()
            batch = [entries[place] for place in places]
            refusal = await self.write(batch)
            if refusal is None:
                stored += _messages(batch)
            elif refusal.kind is Refused.DUPLICATE:
                there = await self.duplicates(batch)
                duplicates += _messages([batch[i] for i in there])
                rest = [place for i, place in enumerate(places) if i not in there]
                groups += [rest] if rest else []
            elif len(places) == 1:
                refused.append((places[0], refusal.text))
                denied = denied or refusal.denied
            else:
                middle = len(places) // 2
                groups += [places[middle:], places[:middle]]
        return Injected(stored=stored, duplicates=duplicates, refused=tuple(refused), denied=denied)

    async def duplicates(self, entries: Sequence[Entry]) -> set[int]:
        """Return the places of entries whose ids are in the window; see the port.

        A lone publish with an expectation that can never hold is answered for its id first:
        either as a duplicate or as refused, and stored in no case.
        """
        there: set[int] = set()
        asked: dict[str, int] = {}
        for place, entry in enumerate(entries):
            given = entry.headers.get(MSG_ID)
            if given is not None and asked.setdefault(given, place) != place:
                there.add(place)
        ids = list(asked)
        for start in range(0, len(ids), PROBES):
            page = ids[start : start + PROBES]
            answers = await asyncio.gather(
                *(self._is_duplicate(entries[asked[given]].subject, given) for given in page)
            )
            there |= {asked[given] for given, yes in zip(page, answers, strict=True) if yes}
        return there

    # --- inside -----------------------------------------------------------------------------

    async def _try(self, entries: Sequence[Entry], *, soon: bool) -> tuple[Refusal | None, str]:
        """Send once. Returns the outcome and, if it should be sent again, the reason."""
        try:
            alone = len(entries) == 1
            reply = await (self._single(entries[0], soon) if alone else self._batch(entries))
        except NotPermitted as error:
            return Refusal(Refused.UNACCEPTABLE, str(error), denied=True), ""
        except NoResponders:
            return await self._unanswered(entries)
        except ConnectionLost as error:
            return None, str(error)
        answer = _decode(reply.body) if reply.body else {}
        if answer.get("duplicate"):
            return Refusal(Refused.DUPLICATE), ""
        error_ = error_of(answer)
        return (None, "") if error_ is None else judge(error_)

    async def _single(self, entry: Entry, soon: bool) -> Reply:
        """Publish one entry; the link repeats it until it is answered."""
        headers = dict(entry.headers)
        if entry.expect is not None:
            headers[EXPECT_LAST] = str(entry.expect)
        return await self._link.call(entry.subject, entry.body, headers, patience=0.0, soon=soon)

    async def _batch(self, entries: Sequence[Entry]) -> Reply:
        await self._link.up()
        return await send_batch(self._link, entries, f"{self._prefix}{next(self._batches)}")

    async def _unanswered(self, entries: Sequence[Entry]) -> tuple[Refusal | None, str]:
        """Find out why nobody answered: a subject outside the stream, or no stream."""
        try:
            info = await stream_info(self._link, self._names.stream)
        except (NoResponders, ApiError) as error:
            return None, str(error)
        if info is None:
            # Never made again by ourselves: what it held is lost, and somebody must know.
            raise Unavailable(f"stream {self._names.stream} is gone; it is not made again")
        patterns = info.subjects
        for entry in entries:
            if not any(matches(pattern, entry.subject) for pattern in patterns):
                text = f"{entry.subject} is not a subject of stream {self._names.stream}"
                return Refusal(Refused.UNACCEPTABLE, text), ""
        return None, "the stream does not answer yet"

    async def _is_to_blame(self, entries: Sequence[Entry]) -> bool:
        """Whether a member is denied or outside the stream, and not the server short of disk.

        Both end in an incomplete batch. On each subject a publish is tried that can never be
        stored: its expectation is refused, unless the subject is.
        """
        headers = {"Nats-Expected-Last-Msg-Id": f"{self._prefix} never"}
        subjects = list({entry.subject for entry in entries})
        for start in range(0, len(subjects), PROBES):
            calls = [
                self._link.call(subject, b"", headers, patience=0.0)
                for subject in subjects[start : start + PROBES]
            ]
            for answer in await asyncio.gather(*calls, return_exceptions=True):
                if isinstance(answer, NotPermitted):
                    return True
                if isinstance(answer, NoResponders):
                    return (await self._unanswered(entries))[0] is not None
                if isinstance(answer, BaseException):
                    raise answer
        return False

    async def _is_duplicate(self, subject: str, given: str) -> bool:
        headers = {MSG_ID: given, "Nats-Expected-Last-Msg-Id": f"{self._prefix} never"}
        reply = await self._link.call(subject, b"", headers)
        return _decode(reply.body).get("duplicate") is True


async def send_batch(
    link: Link, entries: Sequence[Entry], name: str, *, seconds: float = SILENCE
) -> Reply:
    """Send an atomic batch once and return its answer; raises ConnectionLost for none in time."""
    last = len(entries)
    first_reply, opened = link.ticket(entries[0].subject, seconds)
    last_reply, committed = link.ticket(entries[-1].subject, seconds)

    def refused_at_once(_: object) -> None:
        # A refusal of the first member is the reason; what the last one says is not.
        if opened.cancelled() or opened.exception() is not None:
            return
        if opened.result().body and not committed.done():
            committed.set_result(opened.result())

    opened.add_done_callback(refused_at_once)
    replies = {1: first_reply, last: last_reply}
    link.post(
        b"".join(
            [
                _member(entry, name, place, replies.get(place, ""), final=place == last)
                for place, entry in enumerate(entries, 1)
            ]
        )
    )
    try:
        return await committed
    finally:
        opened.cancel()
        committed.cancel()


def judge(error: ApiError) -> tuple[Refusal | None, str]:
    """Turn JetStream's error into a refusal, or into a reason to send again."""
    if error.number in _CONFLICTS:
        return Refusal(Refused.CONFLICT, error.text), ""
    if error.number == _DUPLICATE:
        return Refusal(Refused.DUPLICATE, error.text), ""
    if error.number == _INCOMPLETE:
        # One of its members was denied, too large or outside; or the connection stalled.
        text = f"{error.text}: a member is denied, too large or outside the stream"
        return Refusal(Refused.UNACCEPTABLE, text), error.text
    waits = error.number in (_TOO_MANY_IN_FLIGHT, _FULL) or error.code >= _SERVER_FAULT
    if waits and error.number != _ROLLUP:
        return None, str(error)
    return Refusal(Refused.UNACCEPTABLE, str(error)), ""


def _member(entry: Entry, batch: str, place: int, reply: str, *, final: bool) -> bytes:
    """Return the command for one member of a batch."""
    expect = "" if entry.expect is None else f"{EXPECT_LAST}: {entry.expect}\r\n"
    commit = "Nats-Batch-Commit: 1\r\n" if final else ""
    block = (
        f"NATS/1.0\r\n{header_lines(entry.headers)}{expect}"
        f"Nats-Batch-Id: {batch}\r\nNats-Batch-Sequence: {place}\r\n{commit}\r\n"
    ).encode("ascii")
    return command(entry.subject, reply, block, entry.body)


def unfit(entries: Sequence[Entry], max_payload: int) -> str:
    """Return why entries may not be sent at all: most of it would end the connection."""
    if len(entries) > BATCH_MESSAGES:
        return f"{len(entries)} messages; a batch takes at most {BATCH_MESSAGES}"
    total = 0
    for entry in entries:
        if not is_subject(entry.subject):
            return f"{entry.subject[:80]!r} is not a subject to publish to"
        try:
            size = len(header_lines(entry.headers)) + len(entry.body) + _BATCH_HEADERS
        except BadMessage as error:
            return f"{entry.subject}: {error}"
        if size > max_payload:
            return f"{entry.subject}: {size} bytes; the server takes at most {max_payload}"
        total += size
    if len(entries) > 1 and total > BATCH_BYTES + len(entries) * _BATCH_HEADERS:
        return f"{total} bytes; a batch takes at most {BATCH_BYTES}"
    return ""


def _messages(entries: Iterable[Entry]) -> int:
    """Return how many messages entries are, those in parcels counted one by one."""
    return messages_on(Counter(entry.subject for entry in entries))


def _groups(entries: Sequence[Entry]) -> list[list[int]]:
    """Cut entries into batches that fit; each is a list of places."""
    groups: list[list[int]] = []
    size = BATCH_BYTES
    for place, entry in enumerate(entries):
        if not groups or len(groups[-1]) >= BATCH_MESSAGES or size + entry.size > BATCH_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(place)
        size += entry.size
    return groups


def _pauses() -> Iterator[float]:
    pause = _PAUSE_FIRST
    while True:
        yield pause * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
        pause = min(_PAUSE_MOST, pause * 2)
