"""What a node sees of its own host: room on the disk, and whether its event loop keeps up."""

import asyncio
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from scalebox_actors.actor import Actor
from scalebox_actors.limits import LOOP_LATE, MIB

TICK = 1.0
MARK = "disk: "
"""What the reasons of this room begin with."""

log = logging.getLogger(__name__)


class Disk:
    """Suspends actors while there is too little room for work directories."""

    def __init__(self, base: Path, actors: Sequence[Actor], least: int) -> None:
        self._base, self._actors, self._least = base, actors, least

    async def look(self) -> None:
        """Suspend or resume, by the room there is now.

        Stopping before the disk is full means that nothing is buried for want of room: what waits
        goes on waiting, what is in hand can still write its outputs. Every look says it anew, so
        a module that was suspended for something else does not resume onto a full disk for long.
        """
        free = (await asyncio.to_thread(shutil.disk_usage, self._base)).free
        for actor in self._actors:
            if free < self._least and not actor.suspended:
                room, least = free // MIB, self._least // MIB
                actor.suspend(f"{MARK}{room} MiB free in {self._base}, less than {least} MiB")
            elif free >= self._least and actor.suspended.startswith(MARK):
                actor.resume()


async def watch_loop(late: Callable[[float], None]) -> None:
    """Tell `late` whenever the event loop was blocked for longer than it may be, in seconds.

    A blocked loop sends no heart-beats: past `ack_wait` the tasks in hand run elsewhere as well.
    """
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        await asyncio.sleep(TICK)
        behind = loop.time() - began - TICK
        if behind > LOOP_LATE:
            late(behind)


def report_late(seconds: float) -> None:
    """Log that the event loop was blocked."""
    log.error("loop_blocked", extra={"seconds": round(seconds, 1)})
