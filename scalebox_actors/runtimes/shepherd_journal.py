"""The shepherd's memory: what one that follows a killed one must know. Standard library only."""

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def line_of(message: Json) -> bytes:
    """Return an object as the one line that it is on the wire and in the journal."""
    return _encode(message).encode() + b"\n"


class Journal:
    """What a following shepherd must know, one JSON object a line."""

    def __init__(self, path: str) -> None:
        self._path, self.size = path, 0
        self.found = list(self._lines())
        self._file = -1

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
        """Start over with only these lines; the old journal is there until the new one is whole."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        file = os.open(self._path + ".new", flags, 0o600)
        self.size = os.write(file, b"".join(map(line_of, lines)))
        os.rename(self._path + ".new", self._path)  # noqa: PTH104
        if self._file >= 0:
            os.close(self._file)
        self._file = file

    def write(self, **line: object) -> None:
        """Add a line; a full disk loses it, which matters only if we are killed as well."""
        with contextlib.suppress(OSError):
            self.size += os.write(self._file, line_of(line))
