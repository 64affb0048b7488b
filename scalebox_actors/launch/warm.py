"""The pool of a module's warm containers on a node: kept full in the background, used up by tasks.

A container costs the same ahead as it does later: the pool buys latency, not throughput. So a task
that finds it empty is started at once in a container of its own.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Mapping

from scalebox_actors.errors import SbxError
from scalebox_actors.launch import gate
from scalebox_actors.launch.parked import NEVER_HERE, Given, Parked
from scalebox_actors.launch.workdir import WorkDir
from scalebox_actors.launch.workplace import Workplace
from scalebox_actors.limits import WARM_LOOK, WARM_PAUSE
from scalebox_actors.ports import Run, Task
from scalebox_actors.topology.model import Module

_PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)
"""After so many failures on end, the wait before the next start."""
_REFILL_AFTER = 0.02
"""Seconds for which the next one is not started: that takes all processors, and the program that
was let in needs one."""
_CLOSE_SECONDS = 10.0
"""So long the end of a node waits for a start that is on its way."""

log = logging.getLogger(__name__)


class WarmContainers:
    """Keeps `module.warm` containers waiting, for as long as it is open."""

    def __init__(self, module: Module, place: Workplace) -> None:
        self._module, self._place = module, place
        self._ready: deque[Parked] = deque()
        self._starting: set[Parked] = set()
        self._names: set[str] = set()
        self._due = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._starts: set[asyncio.Task[None]] = set()
        self._removals: set[asyncio.Task[None]] = set()
        self._namings: dict[str, asyncio.Task[None]] = {}
        """By the name that a container is being given, its task's."""
        self._closed = False
        self._failures = 0
        self._image = ""
        self._resting_until = 0.0
        self.why = _unfit(module)
        """Why no container can be started ahead; empty while all is well."""

    @property
    def states(self) -> Mapping[str, int]:
        """How many containers wait, and how many are on their way there."""
        if not self._module.warm:
            return {}
        return {"ready": len(self._ready), "starting": len(self._starting)}

    def open(self) -> None:
        """Begin to fill it."""
        if not self._module.warm:
            return
        if self.why:
            self._warn()
        elif self._keeper is None:
            self._keeper = asyncio.get_running_loop().create_task(self._keep())

    def hold(self) -> None:
        """Start no more: the node takes no more messages."""
        self._closed = True
        if self._keeper is not None:
            self._keeper.cancel()

    def holds(self, name: str) -> bool:
        """Whether a container, or a directory, waits, or is just being given a task's name."""
        return name in self._names

    async def close(self) -> None:
        """Remove all that wait."""
        self.hold()
        if self._namings:
            await asyncio.wait(self._namings.values(), timeout=_CLOSE_SECONDS)
        if self._starts:
            # Let go in the middle, an engine might make the container after we looked for it.
            await asyncio.wait(self._starts, timeout=_CLOSE_SECONDS)
        left = {*self._ready, *self._starting}
        self._ready.clear()
        for start in self._starts:
            start.cancel()
        for parked in left:
            self._throw_away(parked)
        if self._removals:
            await asyncio.wait(self._removals, timeout=_CLOSE_SECONDS)

    async def admit(self, task: Task, directory: WorkDir, given: Given) -> Run | None:
        """Run a task in one that waits; None if there is none.

        Raises RuntimeUnavailable; then nothing was started.
        """
        if not self._ready or not gate.fits(given.arguments) or directory.is_known():
            return None  # what an earlier attempt left has to go first
        parked = self._take()
        if parked is None:
            return None
        run = None
        try:
            run = await parked.admit(task, directory, given)
        finally:
            if run is None:  # whatever became of it, no task ran in it and none will
                self._throw_away(parked)
            else:
                self._name(parked.name, self._place.name(task))
            asyncio.get_running_loop().call_later(_REFILL_AFTER, self._due.set)
        return run

    async def named(self, name: str) -> bool:
        """Whether a container was given this name here; one that is being renamed is waited for."""
        naming = self._namings.get(name)
        if naming is None:
            return False
        await asyncio.wait([naming])
        if naming.cancelled():
            return False
        error = naming.exception()
        if error is not None and not isinstance(error, SbxError):
            raise error
        return error is None

    def forget(self, name: str) -> None:
        """Know nothing more of a task's container, which has been removed."""
        self._namings.pop(name, None)

    def _name(self, waiting: str, name: str) -> None:
        """Let a container have its task's name; its program runs meanwhile."""
        naming = asyncio.get_running_loop().create_task(self._rename(waiting, name))
        naming.add_done_callback(_retrieve)
        self._namings[name] = naming

    async def _rename(self, waiting: str, name: str) -> None:
        # Killed before it is done, the next life finds the container by the directory's note.
        runtime = self._place.runtime
        try:
            if not await runtime.rename(waiting, name):
                # Whoever has the name has no directory here: it has lost the task, to us.
                await runtime.remove(name)
                await runtime.rename(waiting, name)
        finally:
            self._names.discard(waiting)

    def _take(self) -> Parked | None:
        """Return the oldest that still waits."""
        while self._ready:
            parked = self._ready.popleft()
            if parked.alive and not self._too_old(parked):
                return parked
            self._throw_away(parked)
        return None

    # --- in the background ----------------------------------------------------------------------

    async def _keep(self) -> None:
        while True:
            self._due.clear()
            await self._look()
            if time.monotonic() >= self._resting_until:
                self._fill()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WARM_LOOK):
                    await self._due.wait()

    def _fill(self) -> None:
        for _ in range(self._module.warm - len(self._ready) - len(self._starting)):
            parked = Parked(self._module, self._place)
            self._names.add(parked.name)
            self._starting.add(parked)
            start = asyncio.get_running_loop().create_task(self._start(parked))
            self._starts.add(start)
            start.add_done_callback(self._starts.discard)

    async def _start(self, parked: Parked) -> None:
        waits = False
        try:
            # In turn over the whole node, so that running work is not starved.
            async with self._place.ahead:
                if not self._closed:
                    await parked.open()
                    waits = True
        except (SbxError, OSError) as error:
            self._failed(error)
        finally:
            self._starting.discard(parked)
        if waits:
            self._failures, self.why = 0, ""
            self._ready.append(parked)
        else:
            self._throw_away(parked)

    async def _look(self) -> None:
        """Remove those that are too old, have died or are of an image that was replaced."""
        try:
            image = await self._place.runtime.identity(self._module.image)
        except SbxError:
            return
        if image != self._image:
            self._image, self._resting_until = image, 0.0
        for parked in list(self._ready):
            stale = parked.image != image or self._too_old(parked) or not parked.alive
            if stale and parked in self._ready:
                self._ready.remove(parked)
                self._throw_away(parked)

    def _too_old(self, parked: Parked) -> bool:
        age = self._module.keep.age
        return age is not None and time.monotonic() - parked.made >= age

    def _failed(self, error: SbxError | OSError) -> None:
        """Wait a while before the next start; say so once."""
        never = isinstance(error, NEVER_HERE)
        pause = WARM_PAUSE if never else _PAUSES[min(self._failures, len(_PAUSES) - 1)]
        self._resting_until = time.monotonic() + pause
        self._failures += 1
        first, self.why = not self.why, str(error)
        if first:
            self._warn()

    def _warn(self) -> None:
        what = {"sbx_module": self._module.name, "why": self.why}
        log.warning("warm_off", extra=what)

    async def _remove(self, parked: Parked) -> None:
        try:
            await parked.close()
        except (SbxError, OSError) as error:  # the reaper will, once it belongs to nobody
            log.debug("warm_not_removed", extra={"run": parked.name, "why": str(error)})
        finally:
            self._names.discard(parked.name)

    def _throw_away(self, parked: Parked) -> None:
        removal = asyncio.get_running_loop().create_task(self._remove(parked))
        self._removals.add(removal)
        removal.add_done_callback(self._removals.discard)


def _unfit(module: Module) -> str:
    """Return why a module's messages cannot pass a gate; empty if they can."""
    if not module.command and module.args == ():
        return "without `command` and arguments the image's own command is executed"
    if taken := gate.cannot_pass(module.env):
        return f"a shell does not hand on {', '.join(taken)} of `env`"
    if module.limits.gpus:
        return "a GPU is given to a run, and a container that waits has none"
    return ""


def _retrieve(naming: "asyncio.Task[None]") -> None:
    """Take note of an error: whoever needs the name hears of it."""
    if not naming.cancelled():
        naming.exception()
