"""The node's side of a slot: one container, and the shell in it that runs its programs.

The shell is `slot_agent.sh`, in the door beside the pipes. A run's name is a secret of the node
and the agent: an answer counts only for the run that was asked for. Once the agent is there, the
pipes lose their names, so that no program finds them where it could open them.
"""

import asyncio
import os
import re
import secrets
import time
from pathlib import Path

import msgspec

from scalebox_actors.errors import NotPermitted, RuntimeUnavailable, SpecRejected
from scalebox_actors.launch.pipes import IN, OUT, PipeClosed, Pipes
from scalebox_actors.launch.stragglers import end_stragglers, mark_of
from scalebox_actors.launch.tap import Tap
from scalebox_actors.limits import SLOT_START, STOP_GRACE
from scalebox_actors.ports import Exit, Logs, Run, Runtime
from scalebox_actors.spec import ContainerSpec

SCRIPT = "slot_agent.sh"
TASK = "task"
STDOUT, STDERR = "stdout", "stderr"
NO_HOOK = -1
"""There is nothing to execute: no such hook."""
_ANSWER_BYTES = 256
_TIMES = re.compile(rb"(\d+)m(\d+[.,]\d+)s (\d+)m(\d+[.,]\d+)s")
"""A line of the shell's `times`: minutes and seconds in user mode, and in the kernel."""
_SCRIPT = Path(__file__).with_name(SCRIPT).read_bytes()


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one program, or with it of the whole container."""

    code: int = 0
    exit: Exit | None = None
    """The container ended, and how; there was no answer then."""
    timed_out: bool = False
    stopped: bool = False
    """Somebody wanted it to end."""
    logs: Logs = Logs()
    started: float = 0.0
    finished: float = 0.0
    cpu_seconds: float | None = None
    """Of the program and all that it waited for, in steps of 10 ms."""


class Door:
    """A folder of the host with everything by which a node and an agent talk."""

    def __init__(self, folder: Path, *, most: int, keep_end: bool) -> None:
        """Make it; `most` bytes of each output of a program are kept, the last or the first."""
        self.folder = folder
        folder.mkdir(mode=0o755)
        folder.chmod(0o755)
        script = folder / SCRIPT
        script.write_bytes(_SCRIPT)
        script.chmod(0o444)
        self.pipes = Pipes.make(folder, longest=_ANSWER_BYTES)
        self.stdout = Tap.make(folder / STDOUT, most, keep_end=keep_end)
        self.stderr = Tap.make(folder / STDERR, most, keep_end=keep_end)

    def lock(self) -> None:
        """Take the names from the pipes: whoever has not opened them by now never will."""
        for name in (IN, OUT, STDOUT, STDERR):
            (self.folder / name).unlink(missing_ok=True)

    def lay(self, text: bytes) -> None:
        """Lay down what the agent is to execute next."""
        # Over what lies there: some file systems flush a file that is first made empty.
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(self.folder / TASK, flags, 0o644), "wb") as file:  # noqa: PTH123
            os.fchmod(file.fileno(), 0o644)
            file.write(text)
            file.truncate()

    def close(self) -> None:
        """Let go of the pipes; an agent that waits for a word ends by itself."""
        self.pipes.close()
        self.stdout.close()
        self.stderr.close()


class Agent:
    """A slot's container, running."""

    def __init__(self, run: Run, door: Door, *, alone: bool) -> None:
        self._run, self._door, self._alone = run, door, alone
        self._asked = ""
        self._answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._pid, self._mark = 0, b""
        self._used: float | None = None
        """CPU seconds of all programs so far, as the agent's shell has told."""
        self._end = asyncio.create_task(run.wait())
        self._broken = False
        self._stopped = False
        self.opened = time.monotonic()

    @classmethod
    async def open(
        cls, runtime: Runtime, spec: ContainerSpec, door: Door, *, alone: bool
    ) -> "Agent":
        """Start a container whose wrapper is the agent, and wait for its first word.

        `alone`: the container has a pid namespace, so the agent itself ends what a run leaves.
        Raises ImageMissing or SpecRejected (no shell in the image, say) and RuntimeUnavailable.
        """
        try:
            run = await runtime.adopt_or_start(spec)
        except NotPermitted as error:  # a mount that is not there, or leaves its root on this host
            raise SpecRejected(str(error)) from error
        agent = cls(run, door, alone=alone)
        try:
            await agent._hello(spec.image)
        except BaseException:
            agent.let_go()
            raise
        door.lock()
        return agent

    @property
    def usable(self) -> bool:
        """Whether another program can be run in it."""
        return not (self._broken or self._end.done())

    async def do(self, hook: str, text: bytes, seconds: float) -> Said:
        """Execute one program under a time limit; afterwards nothing of it runs any more.

        `text` is what the agent's shell executes, `hook` which program it looks up, or `command`.
        """
        self._asked = secrets.token_hex(8)
        self._answer = asyncio.get_running_loop().create_future()
        self._door.lay(text)
        self._door.stdout.begin()
        self._door.stderr.begin()
        started, before = time.time(), self._used or 0.0
        try:
            done, timed_out = await self._finish(f"{self._asked} {hook}\n", seconds)
            exit_ = None if done else await asyncio.shield(self._end)
        except BaseException:
            self._broken = True  # a program may run on that nobody waits for
            raise
        return Said(
            code=int(self._answer.result()) if done else 0,
            exit=exit_,
            timed_out=timed_out,
            stopped=self._stopped,
            logs=self._logs(),
            started=started,
            finished=time.time(),
            cpu_seconds=self._used - before if done and self._used is not None else None,
        )

    async def stop(self, grace: float) -> None:
        """End the container and what runs in it; `do` then returns."""
        self._stopped = self._broken = True
        await self._run.stop(grace)

    def let_go(self) -> None:
        """Forget the container, which has to be removed."""
        self._broken = True
        self._end.cancel()

    async def _finish(self, line: str, seconds: float) -> tuple[bool, bool]:
        """Ask, and wait until nothing of it runs; returns whether it ended, and at its limit."""
        try:
            await self._door.pipes.say(line.encode())
        except PipeClosed:
            await self._run.stop(STOP_GRACE)
            return False, False
        if await self._first(seconds):
            if not self._alone and not await end_stragglers(self._pid, self._mark):
                self._broken = True
            return True, False
        if self._end.done():
            return False, False
        await self._run.stop(STOP_GRACE)
        await asyncio.wait([self._end])
        return False, True

    async def _first(self, seconds: float) -> bool:
        """Wait for an answer; False if the container ended first, or the time did."""
        answer: asyncio.Future[object] = self._answer  # type: ignore[assignment]
        waits: set[asyncio.Future[object]] = {answer, self._end}  # type: ignore[arg-type]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return self._answer.done()

    async def _hello(self, image: str) -> None:
        self._asked = "ready"
        self._door.pipes.listen(self._hear)
        if await self._first(SLOT_START):
            self._pid = int(self._answer.result())
            self._mark = b"" if self._alone else mark_of(self._pid)
            return
        if not self._end.done():
            raise RuntimeUnavailable(f"container {self._run.name} does not say that it is there")
        exit_ = self._end.result()
        if exit_.not_started:
            raise SpecRejected(f"image {image!r}: `launch: slot` needs /bin/sh; {exit_.detail}")
        if exit_.lost:
            raise RuntimeUnavailable(exit_.detail or "the container was ended from outside")
        logs = await self._run.logs(_ANSWER_BYTES)
        said = logs.stderr.decode("utf-8", "replace").strip()
        raise SpecRejected(f"image {image!r}: its shell ended with {exit_.code}: {said}")

    def _hear(self, line: bytes | None) -> None:
        """Take an answer; one to another question is of no interest, whoever made it up."""
        times = _TIMES.fullmatch(line or b"")
        if times:
            self._used = _seconds(times)  # of the two lines the second stays
            return
        name, _, code = (line or b"").decode("ascii", "replace").partition(" ")
        if name != self._asked or self._answer.done():
            return
        if code == "none":
            self._answer.set_result(str(NO_HOOK))
        elif code.isdecimal():
            self._answer.set_result(code)

    def _logs(self) -> Logs:
        (stdout, stdout_size), (stderr, stderr_size) = (
            self._door.stdout.take(),
            self._door.stderr.take(),
        )
        return Logs(stdout=stdout, stderr=stderr, stdout_size=stdout_size, stderr_size=stderr_size)


def _seconds(times: "re.Match[bytes]") -> float:
    minutes, seconds, more_minutes, more_seconds = (
        float(word.replace(b",", b".")) for word in times.groups()
    )
    return 60 * (minutes + more_minutes) + seconds + more_seconds


def wrapper(door: str, *, alone: bool) -> tuple[str, ...]:
    """Return what executes an agent whose door is seen at a path; the program follows it."""
    return ("/bin/sh", f"{door}/{SCRIPT}", "alone" if alone else "shared")
