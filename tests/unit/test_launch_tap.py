"""The node's end of what programs print: bounded in what is kept, complete in what is counted."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from scalebox_actors.launch.tap import Tap


class Printer:
    """A tap with the program's end of its pipe."""

    def __init__(self, place: Path, *, most: int, keep_end: bool) -> None:
        path = place / "stdout"
        self.tap = Tap.make(path, most, keep_end=keep_end)
        self.end = os.open(path, os.O_WRONLY | os.O_NONBLOCK)

    async def prints(self, data: bytes) -> None:
        """Print as a program does: wait while the pipe is full."""
        async with asyncio.timeout(10):
            while data:
                try:
                    data = data[os.write(self.end, data) :]
                except BlockingIOError:
                    await asyncio.sleep(0)


@pytest.fixture(params=[True, False], ids=["end", "beginning"])
async def printer(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Printer]:
    """One that keeps the end of what is printed, and one that keeps the beginning."""
    made = Printer(tmp_path, most=10, keep_end=request.param)
    yield made
    made.tap.close()
    os.close(made.end)


async def test_a_bounded_part_is_kept_and_all_is_counted(
    printer: Printer, request: pytest.FixtureRequest
) -> None:
    """A megabyte passes through; ten bytes of it stay, those that are asked for."""
    printer.tap.begin()
    await printer.prints(b"0123456789" + b"x" * 1_000_000 + b"abcdefghij")
    kept, size = printer.tap.take()
    expected = b"abcdefghij" if request.node.callspec.params["printer"] else b"0123456789"

    assert (kept, size) == (expected, 1_000_020)


async def test_what_is_printed_between_two_runs_belongs_to_none(printer: Printer) -> None:
    """A run is told only what was printed since it began."""
    await printer.prints(b"noise")
    printer.tap.begin()
    await printer.prints(b"mine")

    assert printer.tap.take() == (b"mine", 4)


async def test_a_flood_between_two_runs_waits(printer: Printer) -> None:
    """Nobody listens then: whoever floods is stopped by the pipe, and costs the node nothing."""
    printer.tap.begin()
    printer.tap.take()
    written = 0
    for _ in range(100):
        try:
            written += os.write(printer.end, b"x" * 65_536)
        except BlockingIOError:
            break
        await asyncio.sleep(0)

    assert written <= 1_048_576
