"""What commands write: records to standard output, everything else to standard error.

One record is one line, whatever is in it. On both streams nothing that a stranger wrote can move
the cursor, change a colour or look like a line of ours.
"""

import contextlib
import select
import sys
from collections.abc import Mapping

from scalebox_actors.cli.show import escaped, json_line
from scalebox_actors.errors import SbxError

STDOUT_CLOSED = "standard output is closed"


def line(text: str) -> None:
    """Write one record to standard output."""
    if sys.stdout is None:
        raise SbxError(STDOUT_CLOSED)
    sys.stdout.buffer.write(escaped(text).encode("utf-8", "backslashreplace") + b"\n")


def lines(text: str) -> None:
    """Write a text of our own making, with its line breaks, to standard output."""
    for one in text.split("\n"):
        line(one)


def record(fields: Mapping[str, object] | object) -> None:
    """Write one record as a line of JSON to standard output."""
    if sys.stdout is None:
        raise SbxError(STDOUT_CLOSED)
    sys.stdout.buffer.write(json_line(fields).encode() + b"\n")


def flush() -> None:
    """Let what was written go out now."""
    if sys.stdout is not None:
        sys.stdout.flush()


def check_reader() -> None:
    """Raise BrokenPipeError if whoever read our standard output is gone.

    A command that waits for something to write would else notice only when it comes.
    """
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
    except (AttributeError, OSError, ValueError):
        return
    if any(event & select.POLLERR for _, event in poll.poll(0)):
        raise BrokenPipeError


def say(text: str) -> None:
    """Tell the person something on standard error; if nobody can read it, that is no error."""
    if sys.stderr is None:
        return
    safe = "\n".join(escaped(one) for one in text.rstrip("\n").split("\n"))
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(safe.encode("utf-8", "backslashreplace").decode() + "\n")
        sys.stderr.flush()


def is_terminal() -> bool:
    """Whether somebody watches standard error."""
    return sys.stderr is not None and sys.stderr.isatty()
