"""Launch mode `slot`: a container that stays for every slot, a new process in it per message.

This is Scalebox's own way, hooks included. Nothing of it survives the node: a container whose node
died ends with it or is removed by the next one, and its message comes again.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping

from scalebox_actors.errors import NODE_ENDS, ImageMissing, NotAdmitted, SpecRejected
from scalebox_actors.launch.outcomes import unwanted
from scalebox_actors.launch.paths import Paths, remove_declared
from scalebox_actors.launch.slot import Slot, SlotClosed
from scalebox_actors.launch.workplace import Workplace
from scalebox_actors.limits import SLOT_TEARDOWN
from scalebox_actors.ports import Task
from scalebox_actors.records import Outcome
from scalebox_actors.topology.model import Module

log = logging.getLogger(__name__)


class SlotLauncher:
    """Runs a module's tasks, each in one of its slots."""

    def __init__(self, module: Module, place: Workplace) -> None:
        self._module, self._place = module, place
        self._slots = [Slot(module, place, seq) for seq in range(module.slots)]
        self._free = asyncio.Condition()
        self._running: dict[str, Slot] = {}
        self._used: dict[str, Paths] = {}
        """Where a task ran that has files to be removed; its container may go sooner than they."""
        self._unwanted: set[str] = set()
        self._closing = False

    @property
    def ends_runs(self) -> bool:
        """A container ends with its node, and what runs in it."""
        return True

    @property
    def costly(self) -> bool:
        """A process may take hours, or have been cancelled while it waited: a look is cheap."""
        return True

    @property
    def states(self) -> Mapping[str, int]:
        """How many of the slots are in which state."""
        return Counter(slot.state.value for slot in self._slots)

    async def underway(self, task: Task) -> bool:
        """Nothing is adopted: with its node a run has lost whoever listened to it."""
        del task
        return False

    async def run(self, task: Task) -> Outcome:
        """Run the task, or the batch that it leads, in a slot that is free, and collect.

        Raises NotAdmitted if the node ends before its program.
        """
        ids = [m.id for m in task.members] or [task.message.id]
        while True:
            if self._unwanted.intersection(ids):
                self._unwanted.difference_update(ids)
                return unwanted()
            slot = await self._take(task.slot)
            self._running.update(dict.fromkeys(ids, slot))
            try:
                outcome = await slot.run(task)
                if outcome.removed and slot.paths is not None:
                    self._used[task.message.id] = slot.paths
            except SlotClosed:
                continue
            finally:
                for one in ids:
                    self._running.pop(one, None)
                await self._give(slot)
            return outcome

    async def stop(self, task: Task) -> None:
        """End the task's run, with the container it runs in; one that waits is not begun."""
        slot = self._running.get(task.message.id)
        if slot is not None:
            await slot.stop()
        else:
            self._unwanted.add(task.message.id)

    async def clear(self, task: Task, outcome: Outcome | None = None) -> None:
        """Remove the files that a program declared as removable; all else stays."""
        self._unwanted.discard(task.message.id)
        paths = self._used.pop(task.message.id, None)
        if paths is None or outcome is None or not outcome.removed:
            return
        left = await asyncio.to_thread(remove_declared, outcome.removed, paths)
        if left:
            log.warning("files_not_removed", extra={"task": task.message.id, "files": left[:5]})

    async def ready(self) -> None:
        """Raise ImageMissing, SpecRejected or RuntimeUnavailable if nothing could start now."""
        await self._place.runtime.check()
        image = self._module.image
        if image and await self._place.runtime.missing([image]):
            raise ImageMissing(f"image {image!r} is not on this host")
        self._require_one()

    def open(self) -> None:
        """Do nothing: a slot opens when its first message comes."""

    def hold(self) -> None:
        """Let nothing wait for a slot or a `check` that may not come: the node ends."""
        for slot in self._slots:
            slot.hold()

    def holds(self, name: str) -> bool:
        """Whether a container, or a folder, belongs to one of the slots."""
        return any(slot.holds(name) for slot in self._slots)

    def watch_room(self, tell: Callable[[int], None]) -> None:
        """Say nothing: a slot has room for one task."""

    async def close(self) -> None:
        """End all slots, with their teardown; what runs is not admitted any more."""
        began = time.monotonic()
        async with self._free:
            self._closing = True
            self._free.notify_all()
        await asyncio.gather(*(slot.close(SLOT_TEARDOWN) for slot in self._slots))
        log.info("slots_closed", extra={"seconds": round(time.monotonic() - began, 1)})

    async def _take(self, wanted: int) -> Slot:
        """Wait for a slot that is free; the one that is asked for, if it may be had."""
        async with self._free:
            while True:
                if self._closing:
                    raise NotAdmitted(NODE_ENDS)
                self._require_one()
                free = [slot for slot in self._slots if not (slot.taken or slot.closed)]
                if free:
                    slot = min(free, key=lambda one: one.seq != wanted)
                    slot.take()
                    return slot
                await self._free.wait()

    async def _give(self, slot: Slot) -> None:
        async with self._free:
            slot.rest()
            self._free.notify_all()

    def _require_one(self) -> None:
        self._place.require_room()
        if all(slot.closed for slot in self._slots):
            raise SpecRejected(next((slot.why for slot in self._slots if slot.why), "no slot"))
