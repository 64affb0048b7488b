"""How messages quote what somebody else wrote: on one line, short, and with a suggestion."""

import difflib
from collections.abc import Iterable

_SHOWN = 60


def shown(text: str) -> str:
    """Return `text` in back quotes: printable, without line breaks, cut where it gets long."""
    cut = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
    return "`" + "".join(c if c.isprintable() else _escaped(c) for c in cut) + "`"


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return ` (did you mean …?)` if `word` is close to a known one, else nothing."""
    # A word much longer than any name is no slip of the keyboard, and slow to compare.
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6) if len(word) < 100 else []  # noqa: PLR2004
    return f" (did you mean {shown(close[0])}?)" if close else ""


def listed(words: Iterable[str]) -> str:
    """Return the words in back quotes, with commas."""
    return ", ".join(f"`{word}`" for word in words)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
