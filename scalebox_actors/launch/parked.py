"""A warm container: started ahead, waiting at its gate, used for one message or for none."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Mapping, Sequence

import msgspec

from scalebox_actors.errors import ImageMissing, NotPermitted, RuntimeUnavailable, SpecRejected
from scalebox_actors.launch import gate
from scalebox_actors.launch.environment import environment
from scalebox_actors.launch.pipes import Pipes
from scalebox_actors.launch.workdir import WorkDir
from scalebox_actors.launch.workplace import Workplace, is_small
from scalebox_actors.limits import WARM_START
from scalebox_actors.message import Message
from scalebox_actors.names import warm_name
from scalebox_actors.pool import Share
from scalebox_actors.ports import Exit, Run, Task
from scalebox_actors.spec import ContainerSpec, Frame, container_spec
from scalebox_actors.topology.model import Module

ROLE = "warm"
_NOBODY = Task(message=Message(module="", id="", body=b""))
_PER_TASK = ("SLOT_ID", "SLOT_SEQ", "TASK_ID", "SBX_RUN_ID", "SBX_ATTEMPT", "WORK_DIR")
_LINE_BYTES = 256


class Given(msgspec.Struct, frozen=True):
    """What a program is given of its message: what follows its command, and its variables."""

    arguments: Sequence[str]
    env: Mapping[str, str]


class Parked:
    """One warm container, from before its start until it is given to a task or removed."""

    def __init__(self, module: Module, place: Workplace) -> None:
        self._module, self._place = module, place
        around = place.surroundings
        # Never used twice: what an earlier life of this node left cannot be taken for ours.
        self.name = warm_name(around.topology, module.name, secrets.token_hex(6))
        self.made = time.monotonic()
        self.image = ""
        """What the image's name stood for when it was started."""
        self._directory = WorkDir(place.base, self.name, 1, around.node)
        known = environment(module, _NOBODY, around, "/") | place.variables(Share())
        self._env = {name: value for name, value in known.items() if name not in _PER_TASK}
        self._pipes: Pipes | None = None
        self._run: Run | None = None
        self._end: asyncio.Task[Exit] | None = None

    @property
    def alive(self) -> bool:
        """Whether it still waits at its gate."""
        return self._end is not None and not self._end.done()

    async def open(self) -> None:
        """Start it and return once it waits at its gate.

        Raises what says why it does not: ImageMissing or SpecRejected (permanent), OSError or
        RuntimeUnavailable (transient).
        """
        runtime = self._place.runtime
        self.image = await runtime.identity(self._module.image)
        folder = await asyncio.to_thread(self._directory.prepare_ahead)
        script = folder / gate.SCRIPT_NAME
        script.write_bytes(gate.SCRIPT)
        script.chmod(0o444)
        self._pipes = Pipes.make(folder, longest=_LINE_BYTES)
        said: list[bytes | None] = []
        heard = asyncio.Event()

        def hear(line: bytes | None) -> None:
            said.append(line)
            heard.set()

        self._pipes.listen(hear)
        try:
            self._run = await runtime.adopt_or_start(self._spec())
        except NotPermitted as error:  # a mount that is not there on this host
            raise SpecRejected(str(error)) from error
        self._end = asyncio.create_task(self._run.wait())
        self._end.add_done_callback(lambda _: heard.set())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WARM_START):
                await heard.wait()
        self._check(said[0] if said else None)

    async def admit(self, task: Task, directory: WorkDir, given: Given) -> Run | None:
        """Let a task through the gate and return its run; None if it has gone.

        The directory is what makes it the task's; it keeps its own name for now.

        Raises RuntimeUnavailable; then nothing was started, whatever is left of it.
        """
        if self._run is None or self._pipes is None:
            raise RuntimeError("a container is started before a task is let in")
        # Killed anywhere before the gate is opened, its pipe ends and the container with it.
        # Its directory has no file `run`, so nobody takes it for a run.
        await self._hand_over(task, directory)
        if not self.alive:
            return None
        inside = self._place.inside(directory)
        try:
            directory.open_door(gate.opening(given.arguments, given.env, self._env, inside))
        except OSError as error:
            raise RuntimeUnavailable(f"{directory.door}: {error.strerror}") from error
        # Killed here, the file says that it may have been opened. It was not: the gate reads the
        # end of its pipe and says so, and whoever adopts it starts the task anew.
        await self._pipes.say(gate.GO)
        self.let_go()
        return self._run

    async def _hand_over(self, task: Task, directory: WorkDir) -> None:
        """Make the directory the task's; raises RuntimeUnavailable if the host cannot."""
        try:
            if is_small(task):
                directory.take_over(self._directory, task)
            else:
                await asyncio.to_thread(directory.take_over, self._directory, task)
        except OSError as error:  # as for a new container: the task is not to blame
            reason = f"work directory {directory.path}: {error.strerror}"
            raise RuntimeUnavailable(reason) from error

    def let_go(self) -> None:
        """Close the pipes: a container that still waits at its gate then ends."""
        if self._pipes is not None:
            self._pipes.close()
        if self._end is not None:
            self._end.cancel()
            self._end = None

    async def close(self) -> None:
        """Remove container and directory, unless they have become a task's."""
        self.let_go()
        await self._place.runtime.remove(self.name)
        await asyncio.to_thread(self._directory.remove)

    def _check(self, said: bytes | None) -> None:
        """Raise what says why it does not wait at its gate."""
        module = self._module
        if said == gate.READY and self.alive:
            return
        if said == gate.ABSENT:
            program = module.command[0] if module.command else "the image's program"
            raise SpecRejected(f"{program}: cannot be executed")
        if self.alive or self._end is None:
            raise RuntimeUnavailable(f"not ready within {WARM_START:g} s")
        end = self._end.result()
        if end.not_started:
            raise SpecRejected(f"image {module.image!r} has no /bin/sh: {end.detail}")
        raise RuntimeUnavailable(f"ended with {end.code} before its message: {end.detail}")

    def _spec(self) -> ContainerSpec:
        door = self._place.door(self._directory.door)
        return container_spec(
            self._module,
            Frame(
                name=self.name,
                home=self._place.home(Share()),
                task_id="",
                attempt=0,
                command=(*self._module.command, gate.LAST_WORD),
                wrapper=gate.wrapper(door.target),
                env=self._env,
                work=str(self._directory.path),
                role=ROLE,
                doors=(door,),
            ),
            self._place.ceiling,
        )


NEVER_HERE = (ImageMissing, SpecRejected)
"""What says that a container can never be started here as things are."""
