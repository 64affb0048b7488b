"""The reaper: removes what a node, or an earlier life of it, left on its host.

Containers are known by their labels and work directories by the file that names their node. What
is in hand is never touched: the node says what that is.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

from aiofiles import os as aios

from scalebox_actors import trees
from scalebox_actors.belongings import belongings, labels_of
from scalebox_actors.errors import SbxError
from scalebox_actors.launch import workdir
from scalebox_actors.launch.spares import prefix
from scalebox_actors.limits import REAPER_GRACE
from scalebox_actors.names import waits
from scalebox_actors.ports import Broker, Runtime, Stray

STAYING, WARM = ("slot", "resident"), "warm"
"""Roles of containers that are there for messages to come; a life of the node makes its own."""

log = logging.getLogger(__name__)


class Reaper:
    """Looks after what one node of one topology has on its host."""

    def __init__(
        self,
        runtime: Runtime,
        broker: Broker,
        base: Path,
        node: str,
        in_hand: Callable[[str], bool],
    ) -> None:
        self._runtime, self._broker, self._base = runtime, broker, base
        self._node, self._in_hand = node, in_hand
        self._labels = labels_of(broker.names.topology, node, base)

    async def reap(self, since: float) -> None:
        """Remove containers and work directories of ours that no task needs any more.

        Those in hand are left alone. An exited one is kept for its grace: its task may come back
        and adopt it. One whose task has ended goes at once, also if it still runs; so does one
        that is there for messages to come and not of this life: nobody can speak to it.
        """
        seen = set()
        for stray in await self._strays():
            seen.add(stray.name)
            if self._in_hand(stray.name):
                continue
            ended = _stays(stray) or await self._has_ended(stray)
            stale = ended or (not stray.running and _outlived(stray.finished, since))
            if stale and not self._in_hand(stray.name):
                log.info("run_reaped", extra={"run": stray.name, "ended": ended})
                await self._runtime.remove(stray.name)
                await self._discard(stray.name)
        await self._reap_directories(seen, since)

    async def _has_ended(self, stray: Stray) -> bool:
        """Whether the task of a container has a done-record."""
        task_id = stray.labels.get("sbx.id", "")
        if not task_id:  # it was started before its task was known
            task_id = (await asyncio.to_thread(workdir.note_of, self._base / stray.name)).task
        if not task_id:
            return False
        done = self._broker.names.done(stray.labels.get("sbx.module", ""), task_id)
        return await self._broker.read(done) is not None

    async def clear_former(self) -> None:
        """Remove the containers that an earlier life of this node kept, before it has its own."""
        try:
            for stray in filter(_stays, await self._strays()):
                await self._runtime.remove(stray.name)
                await self._discard(stray.name)
        except SbxError as error:  # the reaper does it, once the engine is there
            log.warning("former_not_removed", extra={"why": str(error)})

    async def _strays(self) -> list[Stray]:
        """Return our containers; one that an earlier life let a task into has its name now."""
        strays = await belongings(self._runtime, self._labels)
        waiting = [s.name for s in strays if _stays(s) and not self._in_hand(s.name)]
        given = await asyncio.to_thread(workdir.given_to, self._base) if waiting else {}
        named = [await self._runtime.rename(n, given[n]) for n in waiting if n in given]
        now = await belongings(self._runtime, self._labels) if any(named) else strays
        # One whose name is somebody else's keeps its own for now: its task is in it.
        return [stray for stray in now if stray.name not in given]

    async def _reap_directories(self, kept: set[str], since: float) -> None:
        topology = self._broker.names.topology
        ours, spare = f"sbx-{topology}.", prefix(topology)
        left = []
        for name in await aios.listdir(self._base):
            place = self._base / name
            if name.startswith(workdir.GONE):
                try:
                    await asyncio.to_thread(trees.remove_tree, place)
                except OSError as error:
                    left.append(f"{place}: {error.strerror}")
            if name in kept or self._in_hand(name) or not name.startswith((ours, spare)):
                continue
            with contextlib.suppress(FileNotFoundError):  # its task has just ended
                owner = await asyncio.to_thread(workdir.owner_of, place)
                made = (await aios.stat(place)).st_mtime
                if owner not in (None, self._node):
                    continue  # another node of this host may run in it
                # In one of ours from before this life nothing runs: we were killed between the
                # removal of its container and its own.
                # A spare one that has no owner any more was being removed by whoever was killed.
                nobodys = owner is None and name.startswith(spare)
                if nobodys or _outlived(made, since) or (owner is not None and made < since):
                    await self._discard(name)
        if left:
            log.warning("directories_left", extra={"count": len(left), "first": left[0]})

    async def _discard(self, name: str) -> None:
        """Remove a work directory, unless its task has come back while we looked."""
        if self._in_hand(name):
            return
        try:
            # In this turn of the loop: a task that comes now makes one of its own, and a program
            # never loses the one that it runs in.
            gone = workdir.set_aside(self._base / name)
        except FileNotFoundError:
            return
        await asyncio.to_thread(trees.clear_tree, gone)


def _outlived(ended: float, since: float) -> bool:
    """Whether something has been left alone for its grace, also since this node started."""
    return time.time() - max(ended, since) > REAPER_GRACE


def _stays(stray: Stray) -> bool:
    """Whether a container is there for messages to come; a warm one that has a task is not."""
    role = stray.labels.get("sbx.role", "")
    return role in STAYING or (role == WARM and waits(stray.name))
