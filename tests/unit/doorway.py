"""The pipes in a door, from the side of a scripted program that stays."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def pipes(door: Path) -> Iterator[tuple[int, int]]:
    """Open what the program reads and what it writes, as descriptors that never block."""
    reads = os.open(door / "in", os.O_RDONLY | os.O_NONBLOCK)
    try:
        writes = os.open(door / "out", os.O_WRONLY | os.O_NONBLOCK)
        try:
            yield reads, writes
        finally:
            os.close(writes)
    finally:
        os.close(reads)


async def read_line(pipe: int) -> bytes:
    """Read a line; nothing at the end."""
    got = b""
    while not got.endswith(b"\n"):
        try:
            piece = os.read(pipe, 1)
        except BlockingIOError:
            await asyncio.sleep(0)
            continue
        if not piece:
            return b""
        got += piece
    return got
