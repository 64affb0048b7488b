"""Launch mode `fresh`: a new container for every message, or one that was started ahead for it.

The exited container and its work directory are the local write-ahead log: a node that died finds
both under the task's name and carries on where it stopped. They go only after the commit.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from aiofiles import os as aios

from scalebox_actors.errors import (
    BadMessage,
    ImageMissing,
    NotAdmitted,
    NotPermitted,
    SpecRejected,
)
from scalebox_actors.launch import gate
from scalebox_actors.launch.environment import Variables
from scalebox_actors.launch.lead import TURN, Lead, lane_of
from scalebox_actors.launch.outcomes import collect, outcome_of, unusable, unwanted
from scalebox_actors.launch.parked import Given
from scalebox_actors.launch.paths import remove_declared
from scalebox_actors.launch.spares import Spares
from scalebox_actors.launch.warm import WarmContainers
from scalebox_actors.launch.workdir import WorkDir
from scalebox_actors.launch.workplace import Workplace, argv, prepare
from scalebox_actors.limits import STOP_GRACE
from scalebox_actors.ports import Exit, Run, Task
from scalebox_actors.records import Cause, Outcome
from scalebox_actors.spec import ContainerSpec, Frame, container_spec
from scalebox_actors.topology.model import Module

LOOK_SECONDS = 2.0
"""So long an engine may take to say that an adopted run has ended."""

log = logging.getLogger(__name__)


class FreshLauncher:
    """Runs a module's tasks, each in a container of its own."""

    def __init__(self, module: Module, place: Workplace) -> None:
        self._module = module
        self._place = place
        self._runtime = place.runtime
        self._variables = Variables(module, place.surroundings)
        self._warm = WarmContainers(module, place)
        # Its own: an empty folder is not handed on to another module's programs.
        apart = bool(place.runtime.work_path)
        self._spares = Spares(place.base, place.surroundings.topology, with_files=not apart)
        self._lane = lane_of(module, place.surroundings) if place.runtime.lanes else None
        self._lead = Lead(module.slots)
        self._handed = 0
        """Runs of ours that have not ended, those that wait for their turn among them."""
        self._held = False
        self._unwanted: set[str] = set()
        """Tasks in hand that somebody has ended."""

    @property
    def ends_runs(self) -> bool:
        """The next node adopts what runs."""
        return False

    @property
    def costly(self) -> bool:
        """A container costs a hundred times what a look at the done-record does."""
        return True

    @property
    def states(self) -> Mapping[str, int]:
        """How many wait for a message."""
        return self._warm.states

    async def underway(self, task: Task) -> bool:
        """Whether a container of this attempt, running or exited, is on this host."""
        directory = self._directory(task)
        if not directory.exists():
            return False
        if directory.has_door() and directory.opened is None:
            return False  # it was given to the task and never let in
        return await self._find(task, directory) is not None

    async def run(self, task: Task) -> Outcome:
        """Start or adopt the task's container, wait for it under the time limit, collect."""
        if task.message.id in self._unwanted:
            return unwanted()
        directory = self._directory(task)
        try:
            spec = self._spec(task, directory)
        except BadMessage as error:
            return unusable(str(error))
        while True:
            run = await self._running(task, directory, spec)
            # Killed here, the container runs on, is found by the task's name and is adopted.
            exit_, timed_out = await self._wait(run, directory)
            if not exit_.lost:
                self._lead.note(exit_.finished - exit_.started)
            opened = directory.opened
            most = self._module.output_text_size
            logs = await run.logs(most if opened is None else max(most, gate.SAYS))
            if opened is None:
                break
            if not (run.adopted and gate.never_opened(exit_, logs)):
                exit_ = gate.passed(exit_, logs, opened)
                break
            # Its node died before it let the task in. Killed here, nothing is left of it.
            await self._runtime.remove(run.name)
        outcome = outcome_of(self._module, exit_, logs, timed_out=timed_out)
        if outcome.exit_code != 0 or outcome.cause is not Cause.EXIT:
            return outcome
        if not directory.has_outputs():
            return outcome
        paths = self._place.paths(self._module, directory)
        return await asyncio.to_thread(
            collect, self._module, self._place, directory, paths, outcome
        )

    async def stop(self, task: Task) -> None:
        """Kill the task's container, or the one that is being started; `run` returns its exit."""
        self._unwanted.add(task.message.id)
        run = await self._find(task, self._directory(task))
        if run is not None:
            await run.stop(STOP_GRACE)

    async def clear(self, task: Task, outcome: Outcome | None = None) -> None:
        """Remove the container and the work directory, and the files declared as removable."""
        self._unwanted.discard(task.message.id)
        directory = self._directory(task)
        if outcome is not None and outcome.removed:
            paths = self._place.paths(self._module, directory)
            left = await asyncio.to_thread(remove_declared, outcome.removed, paths)
            if left:
                log.warning("files_not_removed", extra={"task": task.message.id, "files": left[:5]})
        name = self._place.name(task)
        waiting = "" if await self._warm.named(name) else directory.container
        for container in filter(None, (name, waiting)):
            await self._runtime.remove(container)
        self._warm.forget(name)
        if not directory.remove_inputs():
            await asyncio.to_thread(directory.remove)

    async def ready(self) -> None:
        """Raise ImageMissing or RuntimeUnavailable if the module could not start now."""
        await self._runtime.check()
        if self._module.image and await self._runtime.missing([self._module.image]):
            raise ImageMissing(f"image {self._module.image!r} is not on this host")

    def open(self) -> None:
        """Begin to start containers ahead."""
        self._warm.open()

    def hold(self) -> None:
        """Start no more containers ahead, and let go of what waits for its turn."""
        self._held = True
        self._warm.hold()

    def holds(self, name: str) -> bool:
        """Whether a container, or a directory, is kept for messages to come."""
        return self._warm.holds(name) or self._spares.holds(name)

    def watch_room(self, tell: Callable[[int], None]) -> None:
        """Say how many tasks to take: more than there are slots where runs take turns."""
        if self._lane is not None:
            self._lead.tell = tell

    async def close(self) -> None:
        """Remove what is kept for messages to come."""
        await self._warm.close()
        await asyncio.to_thread(self._spares.close)

    async def _running(self, task: Task, directory: WorkDir, spec: ContainerSpec) -> Run:
        """Return the task's run, adopted or started; ended already if nobody wants it any more."""
        run = await self._adopted(task, directory, spec)
        if run is None:
            run = await self._started(task, directory, spec)
        if task.message.id in self._unwanted:  # since we began: there was nothing to kill
            await run.stop(STOP_GRACE)
        return run

    async def _adopted(self, task: Task, directory: WorkDir, spec: ContainerSpec) -> Run | None:
        """Return the run of this attempt that is on this host."""
        if not await self.underway(task):
            return None
        if directory.opened is None:
            return await self._begin(spec, anew=False)
        # Started ahead: its labels, and the first name of its directory, tell nothing of the task.
        return await self._find(task, directory)

    def _directory(self, task: Task) -> WorkDir:
        return self._place.directory(task, self._spares)

    async def _find(self, task: Task, directory: WorkDir) -> Run | None:
        """Return the task's container; one that was started ahead gets its name, if it has not."""
        name = self._place.name(task)
        await self._warm.named(name)
        run = await self._runtime.find(name)
        if run is None and (waiting := directory.container):
            await self._runtime.rename(waiting, name)
            run = await self._runtime.find(name)
        return run

    async def _started(self, task: Task, directory: WorkDir, spec: ContainerSpec) -> Run:
        """Let the task into a container that waits for one, or start one for it."""
        given = Given(spec.command[len(self._module.command) :], spec.env)
        # A GPU is given to a run, and a container that was started ahead has none.
        run = None if task.share.gpus else await self._warm.admit(task, directory, given)
        if run is not None:
            return run
        # Of an earlier attempt: it shall not get its name later, and without one it has to go.
        await self._warm.named(self._place.name(task))
        if waiting := directory.container:
            await self._runtime.remove(waiting)
        await prepare(directory, task)
        # Killed here, a complete work directory is left; the next start makes it anew.
        return await self._begin(spec, anew=True)

    async def _begin(self, spec: ContainerSpec, *, anew: bool) -> Run:
        """Start or adopt a container; `anew`: its work directory was made just now."""
        try:
            run = await self._runtime.adopt_or_start(spec)
            if run.adopted and anew:  # what it wrote went with its directory: it must not count
                await self._runtime.remove(run.name)
                run = await self._runtime.adopt_or_start(spec)
        except NotPermitted as error:  # a mount that is not there, or leaves its root on this host
            raise SpecRejected(str(error)) from error
        return run

    def _spec(self, task: Task, directory: WorkDir) -> ContainerSpec:
        """Return the task's container; raises BadMessage if the body cannot be an argument."""
        inside, share = self._place.inside(directory), task.share
        return container_spec(
            self._module,
            Frame(
                name=self._place.name(task),
                home=self._place.home(share),
                task_id=task.message.id,
                attempt=task.attempt,
                command=argv(self._module, task, inside),
                env=self._variables.of(task, inside) | self._place.variables(share),
                work=str(directory),
                lane=self._lane,
            ),
            self._place.ceiling,
        )

    async def _wait(self, run: Run, directory: WorkDir) -> tuple[Exit, bool]:
        """Wait for a run and say whether it had to be ended at its time limit."""
        self._handed += 1
        try:
            async with asyncio.timeout(await self._left(run, directory)):
                return await run.wait(), False
        except TimeoutError:
            now = time.time()
            await run.stop(STOP_GRACE)
            exit_ = await run.wait()
            return exit_, not (run.adopted and 0.0 < exit_.finished < now)
        finally:
            self._handed -= 1

    async def _left(self, run: Run, directory: WorkDir) -> float:
        """Return what is left of a run's time limit, once its turn has come."""
        limit = float(self._module.timeout)
        if not (run.waits or run.adopted):
            return limit
        began = await self._turn(run) if self._lane is not None else 0.0
        began = began or (await aios.stat(directory.parent)).st_mtime
        left = limit - max(0.0, time.time() - began)
        # One that was adopted may have ended long ago, within its limit.
        return max(left, LOOK_SECONDS) if run.adopted else left

    async def _turn(self, run: Run) -> float:
        """Return when a run's turn came; raises NotAdmitted if it is given back.

        That is if runs of ours before it take long, since another node may have a free slot, or
        the node ends. Behind runs that are not in hand, which an earlier life has left, it waits:
        given back, it would come again at once.
        """
        while True:
            leave = self._held or self._handed > self._module.slots
            began = await run.begun(min(TURN, self._module.timeout), leave=leave)
            if began is not None:
                return began
            if leave:
                self._lead.give_up()
                raise NotAdmitted(f"{run.name} waited for its turn behind long runs")
