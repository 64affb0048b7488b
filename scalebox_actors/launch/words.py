"""Words for a shell: what it reads back is what went in, byte for byte. Pure.

Between single quotes a POSIX shell interprets nothing at all, so nothing that a message says can
mean anything to it: tests/unit/test_launch_words.py asks real shells.
"""

from collections.abc import Iterable, Mapping


def quoted(text: str) -> bytes:
    """Return a text as one word of a shell; it must not hold a NUL, as no argument can."""
    data = text.encode("utf-8", "surrogateescape")
    return b"'" + data.replace(b"'", b"'\\''") + b"'"


def exports(env: Mapping[str, str]) -> bytes:
    """Return the lines that set and export variables, whose names must be identifiers."""
    return b"".join(b"export %s=%s\n" % (n.encode(), quoted(v)) for n, v in env.items())


def words_of(texts: Iterable[str]) -> bytes:
    """Return texts as words, each with a blank before it."""
    return b"".join(b" " + quoted(text) for text in texts)
