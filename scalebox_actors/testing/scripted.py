"""A container runtime in memory: its programs are Python callables, its mishaps are scripted.

Names, adoption, attempts and ends are as with a real engine; it passes the same contract tests
(tests/contract/test_runtime*.py). Runs outlive the `ScriptedRuntime` that started them: they
belong to a `Host`, and a new runtime on the same host is a node that was started again.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from scalebox_actors.errors import ImageMissing, RuntimeUnavailable, SpecRejected
from scalebox_actors.ports import Exit, Logs, Stray
from scalebox_actors.spec import ContainerSpec

KILLED, TERMINATED = 137, 143
OURS = "sbx.topology"


class Ended(Exception):
    """Raised by a scripted program to end in a way that an exit code cannot say."""

    def __init__(self, end: Exit) -> None:
        super().__init__(end)
        self.end = end


def out_of_memory() -> Ended:
    """Return the end of a program that used more memory than it may."""
    return Ended(Exit(code=KILLED, out_of_memory=True))


def lost() -> Ended:
    """Return the end of a container that was removed or went down with its engine."""
    return Ended(Exit(code=KILLED, lost=True, detail="scripted loss"))


def not_started(code: int = 127) -> Ended:
    """Return the end of a program that the engine could not execute."""
    return Ended(Exit(code=code, not_started=True, detail="scripted: cannot be executed"))


Program = Callable[[ContainerSpec, Path], "int | Awaitable[int]"]
"""What runs: may write into the work directory, may wait; returns the exit code."""


class Container:
    """One container of a scripted host."""

    def __init__(self, spec: ContainerSpec, created: float) -> None:
        self.spec, self.created = spec, created
        self.began = created
        self.task: asyncio.Task[None] | None = None
        self.end: Exit | None = None
        self.over = asyncio.Event()
        self.seat: int | None = None
        """Which of its lane it has; None while it waits for its turn."""
        self.advance: Callable[[], None] = lambda: None
        """Called when it has ended: somebody else of its lane may begin."""
        self.stdout, self.stderr = b"", b""

    @property
    def ours(self) -> bool:
        """Whether it has our labels."""
        return OURS in self.spec.labels

    @property
    def lane(self) -> str:
        """The name of its lane; empty if it has none."""
        return self.spec.lane.name if self.spec.lane is not None else ""

    @property
    def waits(self) -> bool:
        """Whether it stands in the line of its lane."""
        return bool(self.lane) and self.seat is None and self.end is None


class Host(msgspec.Struct):
    """What outlives a node: containers and images, and a witness of every start."""

    program: Program
    containers: dict[str, Container] = {}
    images: set[str] | None = None
    """None: every image is there."""
    starts: list[str] = []
    """The name of each container that was started, in order: how often programs really ran."""
    seats: dict[str, int] = {}
    """Of each lane, as its newest run says."""
    down: bool = False
    """The engine does not answer."""
    clock: Callable[[], float] = time.time
    ignores_terminate: bool = False

    def end(self, name: str, end: Exit) -> None:
        """End a container from outside, as an engine or a person would."""
        _end(self.containers[name], end)

    def begin(self, container: Container) -> None:
        """Let a container's program run, unless its lane is full: then when its turn comes."""
        lane = container.spec.lane
        if lane is not None:
            container.advance = lambda: self._advance(lane.name)
            others = [c for c in self.containers.values() if c.lane == lane.name and not c.end]
            seats, taken = self.seats[lane.name], {c.seat for c in others if c.seat is not None}
            free = set(range(seats)) - taken
            if len(taken) >= seats or next(c for c in others if c.waits) is not container:
                return
            container.seat = min(free)
            told = {name: f"{text}{container.seat}" for name, text in lane.variables.items()}
            env = {**container.spec.env, **told}
            container.spec = msgspec.structs.replace(container.spec, env=env)
        self.starts.append(container.spec.name)
        container.began = self.clock()
        container.task = asyncio.get_running_loop().create_task(_execute(self, container))

    def _advance(self, lane: str) -> None:
        for container in list(self.containers.values()):
            if container.waits and container.lane == lane:
                self.begin(container)

    def prints(self, name: str, *, stdout: bytes = b"", stderr: bytes = b"") -> None:
        """Let a container's program print."""
        self.containers[name].stdout += stdout
        self.containers[name].stderr += stderr


async def _untaped(step: str) -> None:
    """Stand in for a tape where none is wanted."""


class ScriptedRun:
    """A container of a scripted host, in somebody's hands."""

    def __init__(self, runtime: "ScriptedRuntime", container: Container, adopted: bool) -> None:
        self._runtime, self._container, self._adopted = runtime, container, adopted

    @property
    def name(self) -> str:
        """The container's name."""
        return self._container.spec.name

    @property
    def adopted(self) -> bool:
        """Whether it was there before it was asked for."""
        return self._adopted

    @property
    def waits(self) -> bool:
        """Whether it waits for its turn."""
        return self._container.waits

    async def begun(self, patience: float, *, leave: bool) -> float | None:
        """Return when it began; None if it waits after `patience`, too: it goes if it may leave."""
        await self._runtime.step("run.begun")
        container = self._container
        if container.waits:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await container.over.wait()
        if container.waits:
            if leave:
                await self._runtime.remove(self.name)
            return None
        return container.began

    async def wait(self) -> Exit:
        """Return how it ended."""
        await self._runtime.step("run.wait")
        await self._container.over.wait()
        return self._container.end or Exit(code=KILLED, lost=True)

    async def stop(self, grace: float) -> None:
        """End it, at once or for a program that ignores it after `grace`."""
        await self._runtime.step("run.stop")
        if self._container.end is not None:
            return
        stubborn = self._runtime.host.ignores_terminate
        if stubborn:
            await asyncio.sleep(grace)
        _end(self._container, Exit(code=KILLED if stubborn else TERMINATED))

    async def logs(self, most: int) -> Logs:
        """Return the ends of what it printed."""
        await self._runtime.step("run.logs")
        stdout, stderr = self._container.stdout, self._container.stderr
        return Logs(
            stdout=stdout[max(0, len(stdout) - most) :],
            stderr=stderr[max(0, len(stderr) - most) :],
            stdout_size=len(stdout),
            stderr_size=len(stderr),
        )


class ScriptedRuntime:
    """A node's view of a scripted host; `tape` is awaited with a word before each port call."""

    kind = "scripted"
    work_path = ""

    def __init__(
        self,
        host: Host,
        tape: Callable[[str], Awaitable[None]] = _untaped,
        *,
        lanes: bool = False,
    ) -> None:
        self.host, self.step, self.lanes = host, tape, lanes

    async def find(self, name: str) -> ScriptedRun | None:
        """Return the run of that name, or None."""
        await self._answering("runtime.find")
        container = self.host.containers.get(name)
        if container is None or not container.ours:
            return None
        return ScriptedRun(self, container, adopted=True)

    async def adopt_or_start(self, spec: ContainerSpec) -> ScriptedRun:
        """Return the run named `spec.name`; start it if there is none of this attempt."""
        await self._answering("runtime.adopt_or_start")
        host = self.host
        found = host.containers.get(spec.name)
        if found is not None and not found.ours:
            raise SpecRejected(f"{spec.name} is there and not ours; it was left alone")
        if found is not None and not _replaced(found.spec, spec):
            adopted = True
            container = found
        else:
            if host.images is not None and spec.image not in host.images:
                raise ImageMissing(f"no such image: {spec.image}")
            if found is not None:
                _end(found, Exit(code=KILLED))
            adopted = False
            container = host.containers[spec.name] = Container(spec, host.clock())
            if spec.lane is not None:
                host.seats[spec.lane.name] = spec.lane.seats
        if container.task is None and container.end is None:
            # Killed in between, a container that was created and never started is adopted.
            await self.step("runtime.start")
            if container.task is None and container.end is None:
                host.begin(container)
        return ScriptedRun(self, container, adopted)

    async def rename(self, name: str, new: str) -> bool:
        """Give a run another name, unless that is taken."""
        await self._answering("runtime.rename")
        container = self.host.containers.get(name)
        if container is None or not container.ours or new in self.host.containers:
            return False
        container.spec = msgspec.structs.replace(container.spec, name=new)
        self.host.containers[new] = self.host.containers.pop(name)
        return True

    async def remove(self, name: str) -> None:
        """Remove a run, ending it if it still lives."""
        await self._answering("runtime.remove")
        container = self.host.containers.get(name)
        if container is not None and container.ours:
            del self.host.containers[name]
            _end(container, Exit(code=KILLED))

    async def stray(self, labels: Mapping[str, str]) -> list[Stray]:
        """Return every run that carries all of `labels`."""
        await self._answering("runtime.stray")
        return [
            Stray(
                name=container.spec.name,
                labels=container.spec.labels,
                running=container.task is not None and container.end is None,
                finished=_finished(container),
            )
            for container in self.host.containers.values()
            if container.ours and labels.items() <= container.spec.labels.items()
        ]

    async def missing(self, images: Sequence[str]) -> list[str]:
        """Return those images that the host has not."""
        await self._answering("runtime.missing")
        held = self.host.images
        return [] if held is None else [image for image in images if image not in held]

    async def identity(self, image: str) -> str:
        """Return the image's name, if the host has it: it never stands for another."""
        await self._answering("runtime.identity")
        held = self.host.images
        return image if held is None or image in held else ""

    async def check(self) -> None:
        """Raise RuntimeUnavailable while the host is down."""
        await self._answering("runtime.check")

    async def close(self) -> None:
        """Let go; runs live on with their host."""

    async def _answering(self, step: str) -> None:
        await self.step(step)
        if self.host.down:
            raise RuntimeUnavailable("the scripted engine is down")


async def _execute(host: Host, container: Container) -> None:
    started = container.began
    try:
        code = host.program(container.spec, Path(container.spec.work))
        end = Exit(code=code if isinstance(code, int) else await code)
    except Ended as scripted:
        end = scripted.end
    except Exception as error:  # noqa: BLE001 - a program's own failure is an outcome
        container.stderr += repr(error).encode()
        end = Exit(code=1)
    finished = max(host.clock(), started)
    _end(container, msgspec.structs.replace(end, started=started, finished=finished))


def _replaced(old: ContainerSpec, new: ContainerSpec) -> bool:
    """Whether a run has to go: an earlier attempt, or one whose outputs lie elsewhere."""
    attempts = [int(spec.labels.get("sbx.attempt", "1")) for spec in (old, new)]
    return attempts[0] < attempts[1] or old.work != new.work


def _finished(container: Container) -> float:
    if container.end is not None:
        return container.end.finished
    return container.created if container.task is None else 0.0


def _end(container: Container, end: Exit) -> None:
    if container.end is not None:
        return
    container.end = end
    container.over.set()
    if container.task is not None:
        container.task.cancel()  # does nothing to a program that has just returned
    container.advance()
