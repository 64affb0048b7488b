"""Launch mode `fresh`: a new container for every message.

The exited container and its work directory are the local write-ahead log: a node that died finds
both under the task's name and carries on where it stopped. They go only after the commit.
"""

import asyncio
import logging
import time
from datetime import datetime
from pathlib import Path

import msgspec
from aiofiles import os as aios

from scalebox_actors import contract
from scalebox_actors.contract import Cut, Outputs, truncate
from scalebox_actors.errors import (
    BadMessage,
    BadOutput,
    ImageMissing,
    NotPermitted,
    RuntimeUnavailable,
    SpecRejected,
)
from scalebox_actors.launch import workdir
from scalebox_actors.launch.accounting import account
from scalebox_actors.launch.environment import Surroundings, environment
from scalebox_actors.launch.workdir import Paths, WorkDir
from scalebox_actors.limits import KIB, STOP_GRACE
from scalebox_actors.names import run_name
from scalebox_actors.ports import Exit, Logs, Run, Runtime, Task
from scalebox_actors.records import ORPHAN, TIMED_OUT, UNUSABLE, Cause, Outcome, Usage
from scalebox_actors.spec import Ceiling, ContainerSpec, Frame, container_spec
from scalebox_actors.topology.model import Module

KILLED = 137
WARNINGS_KEPT = 50
SMALL_BODY = 64 * KIB
LOOK_SECONDS = 2.0
"""So long an engine may take to say that an adopted run has ended."""

log = logging.getLogger(__name__)


class Workplace(msgspec.Struct, frozen=True, kw_only=True):
    """What all launchers of a node share."""

    runtime: Runtime
    base: Path
    """Where work directories are made; see `workdir.make_base`."""
    surroundings: Surroundings
    ceiling: Ceiling = Ceiling()
    modules: tuple[str, ...] = ()
    """All modules of the topology: what the comma rule of task files knows."""


class FreshLauncher:
    """Runs a module's tasks, each in a container of its own."""

    def __init__(self, module: Module, place: Workplace) -> None:
        self._module = module
        self._place = place
        self._runtime = place.runtime

    @property
    def costly(self) -> bool:
        """A container costs a hundred times what a look at the done-record does."""
        return True

    async def underway(self, task: Task) -> bool:
        """Whether a container of this attempt, running or exited, is on this host."""
        return await self._underway(self._workdir(task))

    async def run(self, task: Task) -> Outcome:
        """Start or adopt the task's container, wait for it under the time limit, collect."""
        directory = self._workdir(task)
        anew = not await self._underway(directory)
        if anew:
            await self._prepare(directory, task)
        # Killed here, a complete work directory is left; the next start makes it anew.
        try:
            spec = self._spec(task, directory)
        except BadMessage as error:
            return self._unusable(str(error))
        run = await self._begin(spec, anew=anew)
        # Killed here, the container runs on under the task's name and is adopted.
        exit_, timed_out = await self._wait(run, directory)
        logs = await run.logs(self._module.output_text_size)
        outcome = self._outcome(exit_, logs, timed_out=timed_out)
        if outcome.exit_code != 0 or outcome.cause is not Cause.EXIT:
            return outcome
        if not directory.has_outputs():
            return outcome
        return await asyncio.to_thread(self._collect, directory, spec, outcome)

    async def stop(self, task: Task) -> None:
        """Kill the task's container; whoever waits for it gets its exit."""
        run = await self._runtime.find(self._name(task))
        if run is not None:
            await run.stop(STOP_GRACE)

    async def clear(self, task: Task, outcome: Outcome | None = None) -> None:
        """Remove the container and the work directory, and the files declared as removable."""
        directory = self._workdir(task)
        if outcome is not None and outcome.removed:
            paths = self._paths(self._spec(task, directory))
            left = await asyncio.to_thread(workdir.remove_declared, outcome.removed, paths)
            if left:
                log.warning("files_not_removed", extra={"task": task.message.id, "files": left[:5]})
        await self._runtime.remove(directory.name)
        if not directory.remove_inputs():
            await asyncio.to_thread(directory.remove)

    async def ready(self) -> None:
        """Raise ImageMissing or RuntimeUnavailable if the module could not start now."""
        await self._runtime.check()
        if self._module.image and await self._runtime.missing([self._module.image]):
            raise ImageMissing(f"image {self._module.image!r} is not on this host")

    async def _underway(self, directory: WorkDir) -> bool:
        return directory.exists() and await self._runtime.find(directory.name) is not None

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

    async def _prepare(self, directory: WorkDir, task: Task) -> None:
        try:
            # A few small files cost less than the way to a thread and back.
            if task.members or len(task.message.body) > SMALL_BODY:
                await asyncio.to_thread(directory.prepare, task)
            else:
                directory.prepare(task)
        except OSError as error:  # the host's disk is full or broken; the task is not to blame
            reason = f"work directory {directory}: {error.strerror}"
            raise RuntimeUnavailable(reason) from error

    def _name(self, task: Task) -> str:
        return run_name(self._place.surroundings.topology, *task.key)

    def _workdir(self, task: Task) -> WorkDir:
        owner = self._place.surroundings.node
        return WorkDir(self._place.base, self._name(task), task.attempt, owner)

    def _spec(self, task: Task, directory: WorkDir) -> ContainerSpec:
        """Return the task's container; raises BadMessage if the body cannot be an argument."""
        message = task.message
        host = str(directory)
        inside = self._runtime.work_path or host
        arguments = contract.arguments(
            self._module.args,
            body=message.body,
            headers=message.contract_headers,
            task_id=message.id,
            work=inside,
        )
        surroundings = self._place.surroundings
        return container_spec(
            self._module,
            Frame(
                name=directory.name,
                topology=surroundings.topology,
                site=surroundings.site,
                node=surroundings.node,
                task_id=message.id,
                attempt=task.attempt,
                command=(*self._module.command, *arguments),
                env=environment(self._module, task, surroundings, inside),
                work=host,
            ),
            self._place.ceiling,
        )

    def _paths(self, spec: ContainerSpec) -> Paths:
        return Paths(work=spec.work, work_inside=self._runtime.work_path, mounts=spec.mounts)

    async def _wait(self, run: Run, directory: WorkDir) -> tuple[Exit, bool]:
        """Wait for a run and say whether it had to be ended at its time limit."""
        left = float(self._module.timeout)
        if run.adopted:
            left -= max(0.0, time.time() - (await aios.stat(directory.parent)).st_mtime)
            left = max(left, LOOK_SECONDS)  # it may have ended long ago, within its limit
        try:
            async with asyncio.timeout(left):
                return await run.wait(), False
        except TimeoutError:
            now = time.time()
            await run.stop(STOP_GRACE)
            exit_ = await run.wait()
            return exit_, not (run.adopted and 0.0 < exit_.finished < now)

    def _outcome(self, exit_: Exit, logs: Logs, *, timed_out: bool) -> Outcome:
        cause, code, detail = self._cause(exit_, timed_out=timed_out)
        return Outcome(
            exit_code=code,
            cause=cause,
            detail=detail,
            started=exit_.started,
            finished=max(exit_.finished, exit_.started),
            stdout=self._text(logs.stdout, logs.stdout_size),
            stderr=self._text(logs.stderr, logs.stderr_size),
            usage=Usage(cpu_seconds=exit_.cpu_seconds, memory_peak=exit_.memory_peak),
        )

    def _cause(self, exit_: Exit, *, timed_out: bool) -> tuple[Cause, int, str]:
        module = self._module
        if exit_.not_started:
            return Cause.NOT_STARTED, exit_.code or 127, exit_.detail
        if timed_out:
            detail = f"ended at its timeout of {module.timeout:g} s"
            return Cause.TIMEOUT, TIMED_OUT, detail
        if exit_.lost:
            return Cause.LOST, ORPHAN, exit_.detail or "the container was ended from outside"
        if exit_.out_of_memory:
            # A killed child can leave its shell alive: then the exit code is 0 all the same.
            detail = f"out of memory (limit {module.limits.memory or 'of the host'} bytes)"
            return Cause.MEMORY, exit_.code or KILLED, detail
        return Cause.EXIT, exit_.code, exit_.detail

    def _text(self, data: bytes, size: int) -> Cut:
        module = self._module
        cut = truncate(data, module.output_text_size, module.text_trunc_mode.value)
        if size > cut.size:
            cut = msgspec.structs.replace(cut, size=size, cut=True)
        return cut

    def _collect(self, directory: WorkDir, spec: ContainerSpec, outcome: Outcome) -> Outcome:
        """Add what the program wrote down to the outcome of a run that ended with 0."""
        try:
            outputs = contract.parse_outputs(
                directory.collect(), self._place.modules, zone=datetime.now().astimezone().tzinfo
            )
        except BadOutput as error:
            return msgspec.structs.replace(
                outcome, exit_code=UNUSABLE, cause=Cause.BAD_OUTPUT, detail=str(error)
            )
        auxout = self._text(outputs.auxout, len(outputs.auxout)) if outputs.auxout else Cut()
        if outputs.status:
            detail = f"task-exec says status {outputs.status}"
            return msgspec.structs.replace(
                outcome, exit_code=outputs.status, auxout=auxout, detail=detail
            )
        return msgspec.structs.replace(
            outcome,
            emissions=outputs.emissions,
            auxout=auxout,
            extras=self._extras(outputs, spec),
            removed=outputs.removed,
        )

    def _extras(self, outputs: Outputs, spec: ContainerSpec) -> dict[str, object]:
        """Return what the run record keeps besides times and texts."""
        data_root = spec.env.get("CLUSTER_DATA_ROOT", "")
        moved = account(outputs, self._paths(spec), data_root)
        extras = dict(outputs.extras)
        if moved.input_bytes or moved.output_bytes:
            extras["input_bytes"] = moved.input_bytes
            extras["output_bytes"] = moved.output_bytes
        if moved.layers:
            extras["iobytes"] = moved.layers
        warnings = [*outputs.warnings, *moved.warnings]
        if warnings:
            extras["warnings"] = warnings[:WARNINGS_KEPT]
        return extras

    def _unusable(self, detail: str) -> Outcome:
        now = time.time()
        return Outcome(
            exit_code=UNUSABLE, cause=Cause.BAD_MESSAGE, detail=detail, started=now, finished=now
        )
