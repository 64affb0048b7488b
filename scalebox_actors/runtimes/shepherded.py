"""Runs that a shepherd looks after: what the runtimes `process` and `oci` have in common.

The node does not start them itself: a shepherd (shepherd.py) does, which outlives the node, so that
a node that was killed adopts its runs and learns their exit codes.
"""

import asyncio
import logging
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from scalebox_actors.errors import RuntimeUnavailable, SpecRejected
from scalebox_actors.limits import ENGINE_CALL
from scalebox_actors.ports import Exit, Logs, Stray
from scalebox_actors.runtimes.shepherd_link import (
    Answer,
    End,
    Link,
    Told,
    find_shepherd,
    own_directory,
    start_shepherd,
)
from scalebox_actors.spec import ContainerSpec

FORGET_TOGETHER = 0.003
"""Seconds for which runs that have ended gather, to be forgotten with one question."""
PATIENCE = 3 * ENGINE_CALL
"""So long a call is repeated while the shepherd cannot be reached."""

log = logging.getLogger(__name__)


class Watch:
    """What we know of a run that somebody holds, and a future for its end."""

    def __init__(self, told: Told) -> None:
        self.id, self.name = told.id, told.name
        self.waits, self.started = told.waits, told.started
        self.becomes = ""
        """Its name to come, while it is being renamed."""
        self.end: asyncio.Future[End] = asyncio.get_running_loop().create_future()


class ShepherdRun:
    """A run that was started here, by us or by the node before us."""

    def __init__(self, runtime: "ShepherdRuntime", watch: Watch, adopted: bool) -> None:
        self._runtime, self._watch = runtime, watch
        self._adopted = adopted

    @property
    def name(self) -> str:
        """The run's name."""
        return self._watch.name

    @property
    def adopted(self) -> bool:
        """Whether it was there before we asked for it."""
        return self._adopted

    @property
    def waits(self) -> bool:
        """Whether its lane was full when it was asked for."""
        return self._watch.waits

    async def begun(self, patience: float, *, leave: bool) -> float | None:
        """Return when it began; None if it waits for its turn after `patience`, too.

        `leave`: then it never will. Raises RuntimeUnavailable if its shepherd is killed before.
        """
        if not self._watch.waits:
            return self._watch.started
        try:
            async with asyncio.timeout(patience):
                return (await asyncio.shield(self._watch.end)).started
        except TimeoutError:
            told = await self._runtime.turn_of(self._watch, leave=leave)
            return None if told is None or told.waits else told.started

    async def wait(self) -> Exit:
        """Return how it ended."""
        end = await asyncio.shield(self._watch.end)
        return Exit(
            code=end.code,
            lost=end.lost,
            not_started=end.not_started,
            out_of_memory=end.out_of_memory,
            started=end.started,
            finished=max(end.finished, end.started),
            detail=end.detail,
            cpu_seconds=end.cpu_seconds,
            memory_peak=end.memory_peak,
            io_read_bytes=end.io_read_bytes,
            io_write_bytes=end.io_write_bytes,
        )

    async def stop(self, grace: float) -> None:
        """Let it be told to end, and after `grace` be killed, with all that it started."""
        question = {"do": "stop", "name": self.name, "grace": grace}
        await self._runtime.ask(question, patience=grace + PATIENCE, call=grace + ENGINE_CALL)

    async def logs(self, most: int) -> Logs:
        """Return the ends of what it printed."""
        end = await asyncio.shield(self._watch.end)
        if not (end.stdout_size or end.stderr_size or end.lost):
            return Logs()
        return await asyncio.to_thread(self._read_logs, end, most)

    def _read_logs(self, end: End, most: int) -> Logs:
        stdout, held = _tail(self._runtime.log(self._watch.id, "stdout"), most)
        stderr, also_held = _tail(self._runtime.log(self._watch.id, "stderr"), most)
        return Logs(
            stdout=stdout,
            stderr=stderr,
            stdout_size=max(end.stdout_size, held),
            stderr_size=max(end.stderr_size, also_held),
        )


class ShepherdRuntime:
    """Runs of one state directory; what they are is a subclass's affair."""

    kind = ""
    work_path = ""
    lanes = False
    shepherd_of = ""
    """What its shepherd is told to look after; see `shepherd_main.main`."""
    run_class = ShepherdRun
    folder = ""
    """The state directory of a user, where none is given."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._link: Link | None = None
        self._linking = asyncio.Lock()
        self._watches: dict[str, Watch] = {}
        self._mending: asyncio.Task[None] | None = None
        self._leaving: list[str] = []
        self._asking: asyncio.Task[None]
        self._closed = False

    @classmethod
    async def open(cls, state: str | Path | None = None) -> Self:
        """Find or start the shepherd of a state directory; without one, this user's."""
        runtime = cls(await asyncio.to_thread(made, state, cls.folder))
        await runtime.check()
        return runtime

    def log(self, run: str, output: str) -> Path:
        """Return where the shepherd keeps what a run printed, by the run's id."""
        raise NotImplementedError

    # --- the port -------------------------------------------------------------------------------

    async def find(self, name: str) -> ShepherdRun | None:
        """Return the run of that name, or None."""
        told = (await self.ask({"do": "find", "name": name})).run
        if told is None or told.name not in self._watches:  # removed while we asked
            return None
        return self.run(told, adopted=True)

    async def start(self, spec: ContainerSpec, **how: object) -> tuple[Told, bool]:
        """Start the run named `spec.name`, or adopt one that is of this attempt.

        `how` it is started is what this kind of shepherd wants to know. Raises SpecRejected.
        """
        asked = {
            "name": spec.name,
            "id": secrets.token_hex(8),
            "labels": dict(spec.labels),
            "attempt": int(spec.labels.get("sbx.attempt", "1")),
            "work": spec.work,
            "log_bytes": spec.log_bytes,
            "time": time.time(),
            **how,
        }
        answer = await self.ask({"do": "start", "run": asked})
        if answer.run is None:
            raise SpecRejected(answer.error)
        return answer.run, answer.adopted

    async def rename(self, name: str, new: str) -> bool:
        """Give a run another name, unless that is taken."""
        if name not in self._watches and await self.find(name) is None:
            return False
        watch = self._watches[name]
        watch.becomes = new
        question = {"do": "rename", "name": name, "to": new, "id": watch.id}
        try:
            told = (await self.ask(question)).run
        finally:
            watch.becomes = ""
        return told is not None and told.id == watch.id

    async def remove(self, name: str) -> None:
        """Remove a run, killing it if it still lives."""
        watch = self._watches.get(name)
        if watch is None or not watch.end.done():
            await self.ask({"do": "remove", "names": [name], "name": name})
        else:
            await self._forgotten(name)
        # Another run may have its name by now, and somebody wait for that one's end.
        if watch is not None and self._watches.get(watch.name) is watch:
            del self._watches[watch.name]

    async def turn_of(self, watch: Watch, *, leave: bool) -> Told | None:
        """Return what is told of a run that may wait for its turn; `leave`: it shall no more."""
        if not leave:
            return (await self.ask({"do": "find", "name": watch.name})).run
        told = (await self.ask({"do": "withdraw", "name": watch.name, "id": watch.id})).run
        if told is None and self._watches.get(watch.name) is watch:
            del self._watches[watch.name]
        return told

    async def stray(self, labels: Mapping[str, str]) -> list[Stray]:
        """Return every run that carries all of `labels`."""
        answer = await self.ask({"do": "list", "labels": dict(labels)})
        return [
            Stray(
                name=told.name,
                labels=told.labels,
                running=told.exit is None,
                finished=told.exit.finished if told.exit else 0.0,
            )
            for told in answer.runs
        ]

    async def check(self) -> None:
        """Raise RuntimeUnavailable if there is no shepherd and none can be started."""
        await self.ask({"do": "find", "name": ""}, patience=0.0)

    async def close(self) -> None:
        """Hang up; programs and shepherd live on."""
        self._closed = True
        if self._mending is not None:
            self._mending.cancel()
            await asyncio.gather(self._mending, return_exceptions=True)
        if self._link is not None:
            self._link.close()

    # --- the shepherd ---------------------------------------------------------------------------

    async def ask(
        self,
        question: Mapping[str, object],
        *,
        patience: float = PATIENCE,
        call: float = ENGINE_CALL,
    ) -> Answer:
        """Ask the shepherd, again and again until `patience` is over.

        Every question may be repeated: a run that was started meanwhile is adopted.
        """
        deadline, pause = time.monotonic() + patience, 0.05
        while True:
            try:
                async with asyncio.timeout(call):
                    answer = await (await self._connected()).ask(question)
                if not answer.again:
                    return answer
                reason = answer.error
            except (OSError, TimeoutError, RuntimeUnavailable) as error:
                reason = str(error) or "no answer"
            if time.monotonic() + pause > deadline:
                raise RuntimeUnavailable(f"the shepherd of {self._state}: {reason}")
            await asyncio.sleep(pause)
            pause = min(2 * pause, 2.0)

    def note(self, answer: Answer) -> None:
        """Remember what an answer or a piece of news says of a run.

        Called before any waiter wakes, so an exit that follows its start closely is not missed.
        """
        told = answer.run
        if told is None:
            return
        watch = self._watches.get(told.name)
        if watch is None or watch.id != told.id:
            watch = self._renamed(told)
        if answer.n and watch is None:
            watch = self._watches[told.name] = Watch(told)
        if watch and watch.id == told.id and told.exit and not watch.end.done():
            watch.end.set_result(told.exit)

    def _renamed(self, told: Told) -> Watch | None:
        """Return the watch on a run that we knew by another name, now under its new one."""
        watch = next((watch for watch in self._watches.values() if watch.id == told.id), None)
        if watch is not None:
            del self._watches[watch.name]
            watch.name = told.name
            self._watches[told.name] = watch
        return watch

    def cut(self) -> None:
        """See to it that those who wait for an end hear of it, though the connection is lost."""
        pending = any(not watch.end.done() for watch in self._watches.values())
        if pending and not self._closed and (self._mending is None or self._mending.done()):
            self._mending = asyncio.get_running_loop().create_task(self._mend())

    async def _forgotten(self, name: str) -> None:
        """Have an ended run forgotten, in one question with all others of this moment.

        Tasks are committed in groups, so their runs are removed in groups as well. One that still
        lives is asked for alone: the others need not wait for it to die.
        """
        if not self._leaving:
            self._asking = asyncio.get_running_loop().create_task(self._forget())
            self._asking.add_done_callback(_retrieve)
        self._leaving.append(name)
        await asyncio.shield(self._asking)

    async def _forget(self) -> None:
        await asyncio.sleep(FORGET_TOGETHER)
        if self._closed:  # the reaper of the next life sees to them
            return
        names, self._leaving = self._leaving, []
        # An older shepherd knows one name only; the reaper then sees to the others.
        await self.ask({"do": "remove", "names": names, "name": names[0]})

    async def _mend(self) -> None:
        for watch in list(self._watches.values()):
            while not watch.end.done():
                try:
                    found = (await self.ask({"do": "find", "name": watch.name})).run
                    if found is None and watch.becomes:
                        found = (await self.ask({"do": "find", "name": watch.becomes})).run
                except RuntimeUnavailable as error:
                    log.warning("shepherd_gone", extra={"detail": str(error)})
                    continue
                if watch.waits and found is None:
                    # The shepherd's journal knows nothing of it: its turn had not come.
                    watch.end.set_exception(
                        RuntimeUnavailable("the shepherd and its line are gone")
                    )
                    watch.end.exception()  # perhaps nobody waits, and that is no fault
                elif found is None or found.id != watch.id:
                    detail = "the run has vanished"
                    watch.end.set_result(End(code=137, lost=True, detail=detail))
                break

    def run(self, told: Told, *, adopted: bool) -> ShepherdRun:
        """Return a run that the shepherd told of."""
        return self.run_class(self, self._watches[told.name], adopted)

    def _new_link(self) -> Link:
        return Link(self.note, self.cut)

    async def _connected(self) -> Link:
        if self._link is not None and self._link.alive:
            return self._link
        async with self._linking:
            if self._link is not None and self._link.alive:
                return self._link
            link = await find_shepherd(self._state, self._new_link)
            if link is None:
                await asyncio.to_thread(start_shepherd, self._state, self.shepherd_of)
                link = await find_shepherd(self._state, self._new_link)
            if link is None:
                raise ConnectionRefusedError("it is not where this node looks for it")
            self._link = link
            return link


def made(state: str | Path | None, folder: str) -> Path:
    """Make a state directory and return its one true path, by which its shepherd is found."""
    path = Path(state) if state is not None else own_directory() / folder
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path.resolve()


def _tail(path: Path, most: int) -> tuple[bytes, int]:
    """Return the last `most` bytes of an output and how many of it are on disk."""
    held = 0
    parts: list[bytes] = []
    for part in (path, path.with_name(path.name + ".old")):
        try:
            with part.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                held += size
                file.seek(max(0, size - most))
                parts.insert(0, file.read(most))
        except FileNotFoundError:
            continue
    joined = b"".join(parts)
    return joined[max(0, len(joined) - most) :], held


def _retrieve(done: "asyncio.Task[None]") -> None:
    """Take note of an error that nobody waits for any more."""
    if not done.cancelled():
        done.exception()
