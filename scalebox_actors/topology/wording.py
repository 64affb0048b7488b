"""How messages quote what somebody else wrote: on one line, short, and with a suggestion."""

import difflib
from collections.abc import Iterable

_SHOWN = 60
_LONGEST = 100


def shown(text: str) -> str:
    """Return `text` in back quotes: printable, without line breaks, cut where it gets long."""
    cut = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
    return "`" + "".join(c if c.isprintable() else _escaped(c) for c in cut) + "`"


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return ` (did you mean …?)` if `word` is close to a known one, else nothing."""
    near = closest(word, known)
    return f" (did you mean {shown(near)}?)" if near else ""


def closest(word: str, known: Iterable[str]) -> str:
    """Return the known word that is most like `word`, if one is; letters in a wrong order first."""
    if len(word) >= _LONGEST:  # no slip of the keyboard, and slow to compare
        return ""
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    mixed = [one for one in close if sorted(one) == sorted(word)]
    return (*mixed, *close, "")[0]


def listed(words: Iterable[str]) -> str:
    """Return the words in back quotes, with commas."""
    return ", ".join(f"`{word}`" for word in words)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
