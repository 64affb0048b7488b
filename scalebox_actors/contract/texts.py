"""Lines, notes and cuts: how bytes that a program wrote become text."""

import codecs
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from scalebox_actors.contract.values import Cut
from scalebox_actors.errors import BadOutput
from scalebox_actors.limits import OUTPUT_FILE_BYTES, RUN_WARNINGS

# Blank lines are skipped by the expression itself: a file of a million of them costs nothing.
_LINE = re.compile(rb"^[ \t\r]*+[^ \t\r\n][^\n]*+", re.MULTILINE)
_SHOWN = 200
_CONTINUATION = range(0x80, 0xC0)


class Line(NamedTuple):
    """One line that is not blank, without its end; numbers count from 1."""

    number: int
    text: str


class Notes:
    """Collects warnings, of which the first few are kept and the rest are counted."""

    def __init__(self) -> None:
        self._kept: list[str] = []
        self._more = 0

    def warn(self, text: str) -> None:
        """Keep a warning, or count it if there are many."""
        if len(self._kept) < RUN_WARNINGS:
            self._kept.append(text)
        else:
            self._more += 1

    def all(self) -> tuple[str, ...]:
        """Return what was kept, and how many were not."""
        more = (f"{self._more} more warnings",) if self._more else ()
        return (*self._kept, *more)


def strict_lines(data: bytes, source: str) -> Iterator[Line]:
    """Yield the lines of a file whose every byte matters; raises BadOutput."""
    check_size(data, source)
    for number, raw in _raw_lines(data):
        try:
            yield Line(number, raw.decode())
        except UnicodeDecodeError:
            raise BadOutput(f"{source}:{number}: not UTF-8 text") from None


def loose_lines(data: bytes, source: str, notes: Notes, limit: int) -> Iterator[Line]:
    """Yield the first `limit` readable lines that are no comment; warn of the others."""
    check_size(data, source)
    count = 0
    for number, raw in _raw_lines(data):
        if raw.lstrip().startswith(b"#"):
            continue
        count += 1
        if count > limit:
            notes.warn(f"{source}:{number}: more than {limit} lines; the rest is not read")
            return
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            notes.warn(f"{source}:{number}: not UTF-8 text")
            continue
        yield Line(number, text)


def check_size(data: bytes, source: str) -> None:
    """Raise BadOutput if a file is larger than any interface file may be."""
    if len(data) > OUTPUT_FILE_BYTES:
        raise BadOutput(
            f"{source}:1: the file has {len(data)} bytes; at most {OUTPUT_FILE_BYTES} are read"
        )


def one_line(error: Exception) -> str:
    """Return what a parser says, safe to print: it may repeat keys that a program chose."""
    text = "".join(c if c.isprintable() else " " for c in str(error))
    return text[:_SHOWN]


def truncate(text: bytes, limit: int, mode: Literal["HEAD", "TAIL"]) -> Cut:
    """Keep at most `limit` bytes of UTF-8: HEAD cuts the head off, TAIL cuts the tail off.

    No character is cut in two. Bytes that are no UTF-8 become U+FFFD, which takes three bytes.
    """
    kept = _window(text, limit, mode).decode(errors="replace").encode()
    cut = len(text) > limit or len(kept) > limit
    return Cut(text=_window(kept, limit, mode).decode(), size=len(text), cut=cut)


def _raw_lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    number, counted = 1, 0
    for match in _LINE.finditer(data):
        number += data.count(b"\n", counted, match.start())
        counted = match.start()
        yield number, match.group().removesuffix(b"\r")


def _window(text: bytes, limit: int, mode: str) -> bytes:
    """Return the kept end of `text`, less the pieces of a character at the place of the cut."""
    if len(text) <= limit:
        return text
    if limit <= 0:
        return b""
    if mode == "TAIL":
        decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        return decoder.decode(text[:limit], final=False).encode(errors="surrogateescape")
    start = len(text) - limit
    while start < len(text) and text[start] in _CONTINUATION and start < len(text) - limit + 3:
        start += 1
    return text[start:]
