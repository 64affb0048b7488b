"""A message: the payload is the body, raw bytes; metadata travels in headers.

`read` turns what came over the wire into a `Message` or says why it cannot; `wire_headers` goes
the other way. Nothing here knows NATS beyond the names of its headers.
"""

from collections.abc import Mapping

import msgspec

from scalebox_actors.errors import UNREADABLE, BadMessage, Transient
from scalebox_actors.limits import (
    HEADER_BLOCK_BYTES,
    HOPS,
    USER_HEADER_NAME,
    USER_HEADER_VALUE,
    USER_HEADERS,
)
from scalebox_actors.names import derived_id, is_digest, is_id, is_name, is_reserved_id

MSG_ID = "Nats-Msg-Id"
MSG_TTL = "Nats-TTL"
EXPECT_LAST = "Nats-Expected-Last-Subject-Sequence"
VERSION = 1
VERSION_HEADER = "Sbx-Version"
PARENT, ROOT, HOP = "Sbx-Parent", "Sbx-Root", "Sbx-Hop"
FROM_MODULE, FROM_HOST, FROM_IP, FROM_SITE = (
    "Sbx-From-Module",
    "Sbx-From-Host",
    "Sbx-From-Ip",
    "Sbx-From-Site",
)
USER = "Sbx-Headers"
JOINED = "Sbx-Joined"
REASON = "Sbx-Reason"
TRACEPARENT = "traceparent"

_HOP_DIGITS = 5
_decode_user = msgspec.json.Decoder(dict[str, str]).decode
_encode = msgspec.json.Encoder().encode


class Raw(msgspec.Struct, frozen=True, kw_only=True):
    """What came over the wire, before anybody believed it."""

    subject: str
    body: bytes
    headers: Mapping[str, str]
    fault: str = ""
    """What the header reader found wrong (a repeated system header, bytes that are no header)."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One message for one module; `headers` are the user's own, `id` is unique per module."""

    module: str
    id: str
    body: bytes
    headers: Mapping[str, str] = {}
    parent: str = ""
    root: str = ""
    hop: int = 0
    from_module: str = ""
    from_host: str = ""
    from_ip: str = ""
    from_site: str = ""
    joined: str = ""
    """For the message that `gather:` makes of a group: the group; else empty."""
    traceparent: str = ""

    @property
    def contract_headers(self) -> dict[str, str]:
        """The headers as the program sees them: the user's, and who sent the message."""
        origin = {
            "from_module": self.from_module,
            "from_host": self.from_host,
            "from_ip": self.from_ip,
            "from_cluster": self.from_site,
        }
        return dict(self.headers) | {name: value for name, value in origin.items() if value}


def identify(raw: Raw, stream_created: str, sequence: int) -> str:
    """Return the id of a message; one without a usable id is named by its place in the stream."""
    given = raw.headers.get(MSG_ID)
    if given is not None and is_id(given) and not is_reserved_id(given):
        return given
    return derived_id(stream_created, sequence)


def read(
    raw: Raw, module: str, message_id: str, *, hops: int = HOPS, body_limit: int | None = None
) -> Message:
    """Read a task of `module`, or raise BadMessage with the reason it can never be run.

    A body over the limit comes from a foreign client; its outputs or its letter might not fit.

    A message of a newer version raises Transient: a newer node may read it.
    """
    if raw.fault:
        raise BadMessage(raw.fault)
    if body_limit is not None and len(raw.body) > body_limit:
        raise BadMessage(f"the body has {len(raw.body)} bytes; at most {body_limit} are allowed")
    headers = raw.headers
    given = headers.get(MSG_ID)
    if given is not None and given != message_id:
        raise BadMessage(f"{MSG_ID} {given[:80]!r} is not an id, or has the reserved form")
    if not headers:
        return Message(module=module, id=message_id, body=raw.body, root=message_id)
    _check_version(headers.get(VERSION_HEADER))
    return Message(
        module=module,
        id=message_id,
        body=raw.body,
        headers=_user_headers(headers.get(USER)),
        parent=headers.get(PARENT, ""),
        root=_lineage(headers, ROOT) or message_id,
        hop=_hop(headers.get(HOP), hops),
        from_module=_from_module(headers.get(FROM_MODULE, "")),
        from_host=headers.get(FROM_HOST, ""),
        from_ip=headers.get(FROM_IP, ""),
        from_site=headers.get(FROM_SITE, ""),
        joined=_joined(headers.get(JOINED, "")),
        traceparent=headers.get(TRACEPARENT, ""),
    )


def wire_headers(message: Message) -> dict[str, str]:
    """Return the NATS headers that carry `message`; what is empty is left out."""
    pairs = {
        MSG_ID: message.id,
        PARENT: message.parent,
        ROOT: message.root,
        HOP: str(message.hop) if message.hop else "",
        FROM_MODULE: message.from_module,
        FROM_HOST: message.from_host,
        FROM_IP: message.from_ip,
        FROM_SITE: message.from_site,
        JOINED: message.joined,
        USER: _ascii_json(message.headers) if message.headers else "",
        TRACEPARENT: message.traceparent,
    }
    return {name: value for name, value in pairs.items() if value}


def check_user_headers(headers: Mapping[str, str]) -> None:
    """Raise BadMessage if a task's own headers are over the limits or not plain ASCII."""
    if len(headers) > USER_HEADERS:
        raise BadMessage(f"{len(headers)} headers; at most {USER_HEADERS} are allowed")
    for name, value in headers.items():
        if not name or len(name) > USER_HEADER_NAME or not _printable(name):
            raise BadMessage(f"header name {name[:80]!r}: 1 to {USER_HEADER_NAME} ASCII characters")
        if len(value) > USER_HEADER_VALUE or not _printable(value):
            raise BadMessage(
                f"header {name!r}: a value has at most {USER_HEADER_VALUE} ASCII characters"
            )


def header_block_size(headers: Mapping[str, str]) -> int:
    """Return the bytes that `headers` take on the wire."""
    return 14 + sum(len(name) + len(value) + 4 for name, value in headers.items())


def check_size(body: bytes, headers: Mapping[str, str], body_limit: int) -> None:
    """Raise BadMessage if a message would not pass the server.

    One publish over the server's limit closes a NATS connection for ever, so sizes are checked
    with headers before anything is sent.
    """
    if len(body) > body_limit:
        raise BadMessage(f"the body has {len(body)} bytes; at most {body_limit} are allowed")
    block = header_block_size(headers)
    if block > HEADER_BLOCK_BYTES:
        raise BadMessage(f"the headers take {block} bytes; at most {HEADER_BLOCK_BYTES} may")


def _printable(text: str) -> bool:
    return text.isascii() and (text.isprintable() or not text)


def _ascii_json(headers: Mapping[str, str]) -> str:
    return _encode(dict(headers)).decode("utf-8")


def _user_headers(text: str | None) -> Mapping[str, str]:
    if text is None:
        return {}
    try:
        headers = _decode_user(text)
    except UNREADABLE as error:
        raise BadMessage(f"{USER} is not a JSON object of strings: {error}") from error
    check_user_headers(headers)
    return headers


def _check_version(text: str | None) -> None:
    if text is None:
        return
    if not (text.isascii() and text.isdigit()):
        raise BadMessage(f"{VERSION_HEADER} {text[:20]!r} is not a number")
    if int(text[:9]) > VERSION:
        raise Transient(f"message of version {text[:9]}; this node reads up to {VERSION}")


def _hop(text: str | None, most: int) -> int:
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= _HOP_DIGITS):
        raise BadMessage(f"{HOP} {text[:20]!r} is not a hop count")
    if int(text) > most:
        raise BadMessage(f"{text} hops from the root; at most {most} are allowed")
    return int(text)


def _joined(token: str) -> str:
    if token and not is_digest(token):
        raise BadMessage(f"{JOINED} {token[:80]!r} is not a group")
    return token


def _lineage(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(name, "")
    if value and not is_id(value):
        raise BadMessage(f"{name} {value[:80]!r} is not an id")
    return value


def _from_module(name: str) -> str:
    if name and not is_name(name):
        raise BadMessage(f"{FROM_MODULE} {name[:80]!r} is not a name")
    return name
