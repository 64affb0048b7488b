"""Parcels: messages that go to one module of one site, stored here as one message.

What waits to be carried leaves our stream by an ack, and the server syncs each ack to disk. One
ack for many messages is what makes a link quick. A parcel's subject says how many it holds, so
that what waits can be counted without reading it; inside, each message keeps its id, its headers
and its body as they are. Pure.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

import msgspec

from scalebox_actors.errors import UNREADABLE, BadMessage
from scalebox_actors.limits import HEADER_BLOCK_BYTES, PARCEL_BYTES, PARCEL_MESSAGES
from scalebox_actors.message import MSG_ID, Raw, header_block_size
from scalebox_actors.names import digest, parcel_of
from scalebox_actors.ports import Entry

_FRAME_BYTES = 32
"""What a message takes in a parcel besides its headers and its body, at most."""
_NAMES = re.compile(r"[!-9;-~]+")

_Inside = tuple[dict[str, str], bytes]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[_Inside]).decode
_loosely = msgspec.msgpack.Decoder(
    Annotated[list[msgspec.Raw], msgspec.Meta(max_length=PARCEL_MESSAGES)]
).decode
_one = msgspec.msgpack.Decoder(_Inside).decode


def pack(entries: Iterable[Entry], body_limit: int) -> list[Entry]:
    """Return what is stored of entries that wait to be carried: parcels, and what stays alone."""
    entries = list(entries)
    return [seal([entries[place] for place in lot]) for lot in lots(entries, body_limit)]


def lots(entries: Sequence[Entry], body_limit: int) -> list[list[int]]:
    """Return the places of entries that go into one parcel together, in their order."""
    room = min(PARCEL_BYTES, body_limit)
    found: list[list[int]] = []
    last: dict[str, list[int]] = {}
    left: dict[str, int] = {}
    for place, entry in enumerate(entries):
        size = len(entry.body) + header_block_size(entry.headers) + _FRAME_BYTES
        lot = last.get(entry.subject)
        if lot is None or len(lot) == PARCEL_MESSAGES or size > left[entry.subject]:
            lot = last[entry.subject] = []
            left[entry.subject] = room
            found.append(lot)
        lot.append(place)
        left[entry.subject] -= size
    return found


def seal(entries: Sequence[Entry], *, named: bool = False) -> Entry:
    """Return the one message that holds entries of one subject; a lone one stays as it is.

    With `named` the parcel has an id, which follows from those of its messages.
    """
    if len(entries) == 1:
        return entries[0]
    body = _encode([(dict(entry.headers), entry.body) for entry in entries])
    headers = {}
    if named:
        headers[MSG_ID] = digest("parcel", *(entry.headers[MSG_ID] for entry in entries))
    return Entry(subject=parcel_of(entries[0].subject, len(entries)), body=body, headers=headers)


def unpack(raw: Raw, count: int) -> Sequence[Raw]:
    """Return the messages in a parcel that says it holds `count`; one may have a fault.

    Raises BadMessage if it cannot be told where they begin and end. What is in a parcel may come
    from anybody who may publish here, so it is believed as little as any message.
    """
    if raw.fault:
        raise BadMessage(raw.fault)
    try:
        inside = _decode(raw.body)
    except UNREADABLE:
        return [_read(raw.subject, part) for part in _parts(raw.body, count)]
    if len(inside) != count:
        raise BadMessage(f"a parcel of {count} messages holds {len(inside)}")
    return [
        Raw(subject=raw.subject, body=body, headers=headers, fault=_fault(headers))
        for headers, body in inside
    ]


def _parts(body: bytes, count: int) -> list[msgspec.Raw]:
    try:
        parts: list[msgspec.Raw] = _loosely(body)
    except UNREADABLE as error:
        raise BadMessage(f"a parcel that cannot be read: {error}") from error
    if len(parts) != count:
        raise BadMessage(f"a parcel of {count} messages holds {len(parts)}")
    return parts


def _read(subject: str, part: msgspec.Raw) -> Raw:
    try:
        headers, body = _one(part)
    except UNREADABLE as error:
        return Raw(subject=subject, body=bytes(part), headers={}, fault=f"in a parcel: {error}")
    return Raw(subject=subject, body=body, headers=headers, fault=_fault(headers))


def _fault(headers: Mapping[str, str]) -> str:
    """Return why headers cannot be sent on; each becomes a line of a header block again."""
    if not headers:
        return ""
    if header_block_size(headers) > HEADER_BLOCK_BYTES:
        return f"the headers take more than {HEADER_BLOCK_BYTES} bytes"
    if "" in headers or _NAMES.fullmatch("".join(headers)) is None:
        return "a header's name has characters that no header may have"
    values = "".join(headers.values())
    if not values.isascii() or not values.replace("\t", " ").isprintable():
        return "a header has characters that are not printable ASCII"
    return ""
