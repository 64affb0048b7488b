"""A node takes nothing more before its disk is full, and says when its loop was blocked."""

import asyncio
import time
from pathlib import Path

import pytest

from scalebox_actors import health
from scalebox_actors.health import Disk, watch_loop


class Actor:
    """What a disk watch needs of an actor."""

    def __init__(self, suspended: str = "") -> None:
        self.suspended = suspended

    def suspend(self, reason: str) -> None:
        """Be suspended."""
        self.suspended = reason

    def resume(self) -> None:
        """Go on."""
        self.suspended = ""


async def test_a_full_disk_suspends_and_room_resumes(tmp_path: Path) -> None:
    """Too little room suspends every actor; only those go on that the disk had stopped."""
    mine, other = Actor(), Actor("image missing")
    disk = Disk(tmp_path, [mine, other], least=1 << 60)  # type: ignore[list-item]

    await disk.look()
    stopped = (mine.suspended.partition(":")[0], other.suspended)
    disk._least = 0
    await disk.look()

    assert stopped == ("disk", "image missing")
    assert (mine.suspended, other.suspended) == ("", "image missing")


async def test_a_blocked_loop_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever blocks the event loop is found out, with how long it took."""
    monkeypatch.setattr(health, "TICK", 0.01)
    monkeypatch.setattr(health, "LOOP_LATE", 0.05)
    told: asyncio.Queue[float] = asyncio.Queue()
    watch = asyncio.create_task(watch_loop(told.put_nowait))
    await asyncio.sleep(0.02)

    time.sleep(0.2)  # noqa: ASYNC251 - the fault itself
    late = await told.get()
    watch.cancel()

    assert late > 0.05
