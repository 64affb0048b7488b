"""The shepherd's memory: what one that follows a killed one must know. Standard library only."""

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]
APPENDED = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def line_of(message: Json) -> bytes:
    """Return an object as the one line that it is on the wire and in the journal."""
    return _encode(message).encode() + b"\n"


def write_all(file: int, data: bytes) -> None:
    """Write to the end; raises OSError, also where a part fits on the disk."""
    while data:
        data = data[os.write(file, data) :]


class Journal:
    """What a following shepherd must know, one JSON object a line."""

    def __init__(self, path: str) -> None:
        self._path, self.size = path, 0
        self.found = list(self._lines())
        self._file, self._torn = -1, False

    def _lines(self) -> Iterator[Json]:
        try:
            with open(self._path, "rb") as file:  # noqa: PTH123
                lines = file.read().splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            try:
                yield json.loads(line)
            except ValueError:
                continue  # half a line: the disk was full, or we were killed at it

    def begin(self, lines: list[Json]) -> None:
        """Start over with only these lines; the old journal is there until the new one is whole.

        Raises OSError where there is no room for them; the old one is in use then.
        """
        text, fresh = b"".join(map(line_of, lines)), self._path + ".new"
        file = os.open(fresh, APPENDED | os.O_TRUNC, 0o600)
        try:
            write_all(file, text)
            os.rename(fresh, self._path)  # noqa: PTH104
        except OSError:
            os.close(file)
            with contextlib.suppress(OSError):
                os.unlink(fresh)  # noqa: PTH108
            raise
        if self._file >= 0:
            os.close(self._file)
        self._file, self._torn, self.size = file, False, len(text)

    def go_on(self) -> None:
        """Use the old journal, as if it were short: it is begun anew when it has grown again."""
        self.size = 0
        if self._file < 0:
            self._file, self._torn = os.open(self._path, APPENDED, 0o600), True

    def write(self, **line: object) -> None:
        """Add a line; a full disk loses it, which matters only if we are killed as well."""
        text = b"\n" * self._torn + line_of(line)  # else it would be lost with half a line before
        written = 0
        with contextlib.suppress(OSError):
            written = os.write(self._file, text)
        self.size += written
        self._torn = written < len(text)
