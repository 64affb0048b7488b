"""How things look to a person: pure functions from values to text."""

import time
from collections.abc import Iterable, Sequence

import msgspec

from scalebox_actors.topology.wording import closest

_TABLES = 2
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_BMP = 0xFFFF
_encode = msgspec.json.Encoder().encode


def escaped(text: str) -> str:
    """Return `text` as one line that a terminal shows and does not obey.

    Everything that is not printable but a tab is written as an escape, also marks that turn the
    direction of writing.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\t" else _escape(c) for c in text)


def text_of(body: bytes) -> str:
    """Return a body as text; bytes that are not UTF-8 become escapes."""
    return body.decode("utf-8", "backslashreplace")


def body_fields(body: bytes) -> dict[str, str]:
    """Return a body for JSON, without loss: as text, or in base64 if it is not UTF-8."""
    try:
        return {"body": body.decode("utf-8")}
    except UnicodeDecodeError:
        return {"body_base64": _encode(body).decode().strip('"')}


def json_line(fields: object) -> str:
    """Return a value as JSON on one line, in characters that no terminal obeys."""
    text = _encode(fields).decode("utf-8")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _json_escape(c) for c in text)


def shortened(text: str, most: int) -> str:
    """Return at most `most` characters of one line of text, with a mark where it was cut."""
    flat = escaped(text)
    return flat if len(flat) <= most else flat[: max(0, most - 1)] + "…"


def suggest(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean …?` if something known is like `word`, else nothing."""
    near = closest(word, known)
    return f"; did you mean `{near}`?" if near else ""


def duration(seconds: float) -> str:
    """Return a duration as people say it: `0.31s`, `12s`, `3m05s`, `2h10m`, `4d02h`."""
    if seconds < 10:  # noqa: PLR2004 - below, tenths and hundredths still tell
        return f"{max(0.0, seconds):.2f}s" if seconds < 1 else f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m{whole % _MINUTE:02d}s"
    if whole < _DAY:
        return f"{whole // _HOUR}h{whole % _HOUR // _MINUTE:02d}m"
    return f"{whole // _DAY}d{whole % _DAY // _HOUR:02d}h"


def size(count: float) -> str:
    """Return a number of bytes as people say it: `512B`, `1.5KiB`, `10GiB`."""
    unit = 0
    while count >= 1024 and unit < len(_UNITS) - 1:  # noqa: PLR2004 - what the units mean
        count, unit = count / 1024, unit + 1
    number = f"{count:.0f}" if count == int(count) else f"{count:.1f}"
    return number + _UNITS[unit]


def moment(seconds: float) -> str:
    """Return a time of the world in UTC, or `-` for none."""
    if seconds <= 0:
        return "-"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds)) + "Z"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return lines with aligned columns; numbers stand to the right, the last may be long."""
    cells = [[escaped(_cell(value)) for value in row] for row in rows]
    numeric = [
        bool(cells) and all(row[i].replace(",", "").replace(".", "").isdigit() for row in cells)
        for i in range(len(header))
    ]
    grid = [list(header), *cells]
    widths = [max(len(row[i]) for row in grid) for i in range(len(header))]
    return [
        (" " * _TABLES)
        .join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, numeric, strict=True)
        )
        .rstrip()
        for row in grid
    ]


def plural(count: int, noun: str) -> str:
    """Return `1 message`, `2 messages`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _json_escape(character: str) -> str:
    code = ord(character)
    if code <= _BMP:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
