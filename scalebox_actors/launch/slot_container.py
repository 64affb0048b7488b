"""The container of a slot with its folders, in which programs are run one by one."""

import asyncio
import contextlib
import logging
import secrets
import time

import msgspec

from scalebox_actors.contract import Emission
from scalebox_actors.errors import RuntimeUnavailable, SpecRejected
from scalebox_actors.launch import slot_files
from scalebox_actors.launch.agent import NO_HOOK, Agent, Door, Said, wrapper
from scalebox_actors.launch.environment import Variables
from scalebox_actors.launch.outcomes import collect, outcome_of
from scalebox_actors.launch.paths import Paths
from scalebox_actors.launch.words import exports, words_of
from scalebox_actors.launch.workdir import WorkDir
from scalebox_actors.launch.workplace import SMALL_BODY, Workplace, argv
from scalebox_actors.limits import SLOT_START, STOP_GRACE
from scalebox_actors.message import Message
from scalebox_actors.ports import Exit, Task
from scalebox_actors.records import Cause, Outcome
from scalebox_actors.spec import Frame, container_spec
from scalebox_actors.topology.model import Module, Truncate

ROLE = "slot"
_NOBODY = Message(module="", id="", body=b"")
_PER_TASK = ("TASK_ID", "SBX_RUN_ID", "SBX_ATTEMPT")
_PROBE = b'command -v "$1" >/dev/null 2>&1 || exit 127\n'
_PROGRAM, _HOOK = b'"$@"', b'"$_sbx_path"'
"""The agent's own arguments, the program as image and module name it; or the hook it has found."""
_ENDS_GROUP = {"TINI_KILL_PROCESS_GROUP": "1"}
"""Lets an engine's init pass a signal on to the program too; the agent takes it from programs."""

log = logging.getLogger(__name__)


class SlotContainer:
    """One container of a slot, from its start to its removal."""

    def __init__(self, module: Module, place: Workplace, seq: int) -> None:
        self._module, self._place, self._seq = module, place, seq
        around = place.surroundings
        # Never used twice: what an earlier life of this node left cannot be taken for ours.
        unique = secrets.token_hex(6)
        self.name = f"sbx-{around.topology}.{module.name}.slot{seq}-{unique}"
        self.directory = WorkDir(place.base, self.name, 1, around.node)
        self.inside = place.inside(self.directory)
        blank = Task(message=_NOBODY, slot=seq)
        self._share = place.share_of(seq)
        self._variables = Variables(module, around)
        known = self._variables.of(blank, self.inside) | place.variables(self._share)
        self._env = {name: value for name, value in known.items() if name not in _PER_TASK}
        self._door: Door | None = None
        self._agent: Agent | None = None
        self._checks = self._runs = self._unwanted = False

    @property
    def usable(self) -> bool:
        """Whether a program can be run in it."""
        return self._agent is not None and self._agent.usable

    @property
    def paths(self) -> Paths:
        """How its programs' paths correspond to those of the host."""
        return self._place.paths(self._module, self.directory)

    async def open(self) -> Said:
        """Start the container, run the `setup` hook and return what became of that.

        Raises ImageMissing or SpecRejected (permanent) and RuntimeUnavailable (transient).
        """
        module, isolated = self._module, bool(self._place.runtime.work_path)
        try:
            folder = slot_files.make(self.directory, self._place.surroundings.node)
            keep_end = module.text_trunc_mode is Truncate.HEAD
            self._door = Door(folder, most=module.output_text_size, keep_end=keep_end)
        except OSError as error:
            reason = f"work directory {self.directory.path}: {error.strerror}"
            raise RuntimeUnavailable(reason) from error
        mount = self._place.door(folder)
        frame = Frame(
            name=self.name,
            home=self._place.home(self._share),
            task_id="",
            attempt=1,
            command=module.command,
            wrapper=wrapper(mount.target, alone=isolated),
            env=self._env | _ENDS_GROUP,
            work=str(self.directory.path),
            role=ROLE,
            doors=(mount,),
        )
        spec = container_spec(module, frame, self._place.ceiling)
        self._agent = await Agent.open(self._place.runtime, spec, self._door, alone=isolated)
        if self._unwanted:
            raise RuntimeUnavailable(f"container {self.name} was stopped while it started")
        if module.command:
            probed = await self._do("command", _PROBE, SLOT_START)
            if probed.code:
                raise SpecRejected(f"module {module.name!r}: {module.command[0]}: not found")
        said = await self.hook("setup", SLOT_START)
        if said.exit is None:  # it may have brought the other hooks
            self._checks = await self._has("check")
            self._runs = bool(module.command) or await self._has("run")
        return said

    async def hook(self, hook: str, seconds: float) -> Said:
        """Run a hook that is about no message."""
        return await self._do(hook, b'exec "$_sbx_path"\n', seconds)

    async def admits(self, task: Task) -> bool:
        """Ask the `check` hook, with a message's arguments; without one every message may come.

        If the container ends by that, the run will say so. Raises BadMessage as `run` does.
        """
        if not self._checks:
            return True
        said = await self._do("check", self._text(task, _HOOK), SLOT_START)
        return said.exit is not None or said.code == 0

    async def run(self, task: Task) -> Outcome:
        """Run the module's program, or its `run` hook, for a message, and collect what it left.

        Raises BadMessage if the body cannot be an argument, OSError if the work directory cannot
        be made ready.
        """
        module = self._module
        if not self._runs:
            return self._passed_through(task)
        text = self._text(task, _PROGRAM if module.command else _HOOK)
        await self._refill(task)
        said = await self._do("command" if module.command else "run", text, module.timeout)
        outcome = self._outcome(said)
        if outcome.exit_code or outcome.cause is not Cause.EXIT or not self.directory.has_outputs():
            return outcome
        return await asyncio.to_thread(
            collect, module, self._place, self.directory, self.paths, outcome
        )

    async def stop(self, grace: float = STOP_GRACE) -> None:
        """End whatever runs in it; what is being started is ended once it stands."""
        self._unwanted = True
        if self._agent is not None:
            await self._agent.stop(grace)

    async def close(self) -> None:
        """Remove the container and its folders; safe to repeat."""
        if self._agent is not None:
            self._agent.let_go()
        if self._door is not None:
            self._door.close()
        await self._place.runtime.remove(self.name)
        await asyncio.to_thread(self.directory.remove)

    async def _do(self, hook: str, text: bytes, seconds: float) -> Said:
        if self._agent is None:
            raise RuntimeError("a container is opened first")
        return await self._agent.do(hook, text, seconds)

    async def _has(self, hook: str) -> bool:
        said = await self._do(f"has-{hook}", b"", SLOT_START)
        return said.exit is None and said.code != NO_HOOK

    async def _refill(self, task: Task) -> None:
        files = slot_files.inputs(task.message, task.members)
        if task.members or len(task.message.body) > SMALL_BODY:
            await asyncio.to_thread(slot_files.refill, self.directory.path, files)
        else:
            slot_files.refill(self.directory.path, files)

    def _text(self, task: Task, program: bytes) -> bytes:
        """Return what the agent's shell executes: the task's own variables, then the program."""
        seated = msgspec.structs.replace(task, slot=self._seq)
        env = self._variables.of(seated, self.inside)
        own = {name: value for name, value in env.items() if self._env.get(name) != value}
        words = argv(msgspec.structs.replace(self._module, command=()), task, self.inside)
        return exports(own) + b"exec " + program + words_of(words) + b"\n"

    def _outcome(self, said: Said) -> Outcome:
        exit_ = said.exit or Exit(code=said.code)
        exit_ = msgspec.structs.replace(exit_, started=said.started, finished=said.finished)
        if said.stopped and not said.timed_out:
            exit_ = msgspec.structs.replace(exit_, lost=True, detail="the run was stopped")
        elif said.exit is not None and not said.exit.code:  # it cannot have meant the program
            exit_ = msgspec.structs.replace(exit_, lost=True, detail="the slot has ended")
        # What the whole container used is not what this run used.
        exit_ = msgspec.structs.replace(
            exit_,
            cpu_seconds=said.cpu_seconds,
            memory_peak=None,
            io_read_bytes=None,
            io_write_bytes=None,
        )
        return outcome_of(self._module, exit_, said.logs, timed_out=said.timed_out)

    def _passed_through(self, task: Task) -> Outcome:
        """Without a run hook a module hands its messages on to its one sink, if it has one."""
        bodies = [m.body for m in task.members] or [task.message.body]
        only = len(self._module.sinks) == 1
        emissions = tuple(Emission(module=None, body=b, headers={}) for b in bodies if only)
        now = time.time()
        return Outcome(exit_code=0, started=now, finished=now, emissions=emissions)


async def closed(container: SlotContainer) -> None:
    """Remove a container, if the engine answers; if not, the reaper does it later."""
    with contextlib.suppress(RuntimeUnavailable, OSError):
        await container.close()
