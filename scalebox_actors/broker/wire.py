"""Bytes on the wire: header blocks and publish commands, encoded and read by ourselves.

Pure. A header block is hostile input: what clients write into one is stored as it is and comes
back as it is. Reading one here never raises; it returns what could be read, and a fault.
"""

import re
from collections.abc import Mapping

import msgspec

from scalebox_actors.errors import BadMessage
from scalebox_actors.limits import HEADER_BLOCK_BYTES

STATUS_HEARTBEAT = 100
STATUS_END = 204
STATUS_NOT_FOUND = 404
STATUS_EXPIRED = 408
STATUS_NO_RESPONDERS = 503

_START = b"NATS/1.0\r\n"
_INLINE = b"NATS/1.0 "
_END = "\r\n\r\n"
_SERVER_BYTES = 1024
"""Of the headers, what the server itself may add when it hands a message out."""
_SUBJECT = re.compile(r"[!-)+\-/-=?-~]+(\.[!-)+\-/-=?-~]+)*")
_SYSTEM = ("Nats-", "Sbx-", "traceparent")
_QUOTED = 60


class Reply(msgspec.Struct, gc=False):
    """The answer to a request; a status of 0 means that it is data."""

    body: bytes
    headers: Mapping[str, str] = {}
    status: int = 0
    text: str = ""
    """What a status line says besides its number."""


def header_lines(headers: Mapping[str, str]) -> str:
    """Return the lines that carry `headers`; raises BadMessage if they cannot be carried."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    count = len(headers)
    if not lines.isascii() or lines.count("\n") != count or lines.count("\r") != count:
        raise BadMessage("a header has a line break, or characters that are not ASCII")
    if "" in headers:
        raise BadMessage("a header has an empty name")
    return lines


def header_block(headers: Mapping[str, str]) -> bytes:
    """Return the block that carries `headers`; raises BadMessage if they cannot be carried."""
    return f"NATS/1.0\r\n{header_lines(headers)}\r\n".encode("ascii")


def command(subject: str, reply: str, block: bytes, body: bytes) -> bytes:
    """Return the command that publishes a message; an empty block means no headers."""
    if block:
        total = len(block) + len(body)
        return b"".join(
            (f"HPUB {subject} {reply} {len(block)} {total}\r\n".encode(), block, body, b"\r\n")
        )
    return b"".join((f"PUB {subject} {reply} {len(body)}\r\n".encode(), body, b"\r\n"))


def is_subject(text: str) -> bool:
    """Whether one may publish to `text`: printable ASCII tokens, no wildcards."""
    return _SUBJECT.fullmatch(text) is not None


def matches(pattern: str, subject: str) -> bool:
    """Whether a subject lies within a pattern with the wildcards `*` and `>`."""
    wanted, given = pattern.split("."), subject.split(".")
    for place, part in enumerate(wanted):
        if part == ">":
            return len(given) > place
        if place >= len(given) or part not in ("*", given[place]):
            return False
    return len(wanted) == len(given)


def read_headers(block: bytes) -> tuple[dict[str, str], str]:
    """Return the headers of a stored message, and what is wrong with them or nothing."""
    if not block:
        return {}, ""
    if not block.startswith(_START):
        if block.startswith(_INLINE):
            return {}, "the header block begins with a status line"
        return {}, f"the header block of {len(block)} bytes cannot be read"
    if len(block) > HEADER_BLOCK_BYTES + _SERVER_BYTES:
        return {}, f"the headers take {len(block)} bytes; at most {HEADER_BLOCK_BYTES} may"
    text = block.decode("ascii", "backslashreplace")
    fault = "" if block.isascii() else "a header has characters that are not ASCII"
    if not text.endswith(_END):
        fault = fault or "the header block does not end with an empty line"
    headers: dict[str, str] = {}
    for line in text[len(_START) :].removesuffix("\r\n").split("\r\n"):
        if line:
            fault = _read_line(line, headers) or fault
    return headers, fault


def read_reply(block: bytes | None, body: bytes) -> Reply:
    """Read an answer of the server; what it sends is not doubted, and still nothing raises."""
    if not block:
        return Reply(body)
    if not block.startswith(_INLINE):
        return Reply(body, read_headers(block)[0])
    first, _, rest = block.partition(b"\r\n")
    number, _, text = first[len(_INLINE) :].decode("ascii", "replace").partition(" ")
    status = int(number) if number.isascii() and number.isdigit() else STATUS_NO_RESPONDERS
    return Reply(body, read_headers(_START + rest)[0], status, text)


def _read_line(line: str, headers: dict[str, str]) -> str:
    """Read one line into `headers` and return its fault."""
    name, colon, value = line.partition(":")
    if not colon or not name or " " in name or "\t" in name:
        return f"header line {line[:_QUOTED]!r} is not `name: value`"
    if not line.replace("\t", " ").isprintable():
        return f"header {name[:_QUOTED]!r} has control characters"
    if name in headers and name.startswith(_SYSTEM):
        # The server reads the first of them, other clients the last: it has no one meaning.
        return f"header {name[:_QUOTED]!r} is repeated"
    headers[name] = value.strip(" \t")
    return ""
