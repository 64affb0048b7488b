"""Programs without containers: for development and tests, and it says so.

A run is a process on this host, with the rights of the node's user and without any limit. The
node does not start it itself: a shepherd (shepherd.py) does, which outlives the node, so that a
node that was killed adopts its runs and learns their exit codes.
"""

import asyncio
import logging
import os
import pwd
import re
import secrets
import time
from collections.abc import Mapping, Sequence
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
    address_of,
    own_directory,
    start_shepherd,
)
from scalebox_actors.spec import ContainerSpec

PASSED_ON = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")
"""Of the node's environment; a container has these from its image."""
PATIENCE = 3 * ENGINE_CALL
"""So long a call is repeated while the shepherd cannot be reached."""
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,200}")

log = logging.getLogger(__name__)


class Watch:
    """What we know of a run that somebody holds, and a future for its end."""

    def __init__(self, told: Told) -> None:
        self.id = told.id
        self.end: asyncio.Future[End] = asyncio.get_running_loop().create_future()


class ProcessRun:
    """A program that was started here, by us or by the node before us."""

    def __init__(self, runtime: "ProcessRuntime", told: Told, watch: Watch, adopted: bool) -> None:
        self._runtime, self._name, self._watch = runtime, told.name, watch
        self._adopted = adopted

    @property
    def name(self) -> str:
        """The run's name."""
        return self._name

    @property
    def adopted(self) -> bool:
        """Whether it was there before we asked for it."""
        return self._adopted

    async def wait(self) -> Exit:
        """Return how it ended."""
        end = await asyncio.shield(self._watch.end)
        return Exit(
            code=end.code,
            lost=end.lost,
            not_started=end.not_started,
            started=end.started,
            finished=max(end.finished, end.started),
            detail=end.detail,
            cpu_seconds=end.cpu_seconds,
            memory_peak=end.memory_peak,
        )

    async def stop(self, grace: float) -> None:
        """Terminate the process group, kill it after `grace`, and with it all descendants."""
        question = {"do": "stop", "name": self._name, "grace": grace}
        await self._runtime.ask(question, patience=grace + PATIENCE, call=grace + ENGINE_CALL)

    async def logs(self, most: int) -> Logs:
        """Return the ends of what it printed."""
        end = await asyncio.shield(self._watch.end)
        if not (end.stdout_size or end.stderr_size or end.lost):
            return Logs()
        return await asyncio.to_thread(self._read_logs, end, most)

    def _read_logs(self, end: End, most: int) -> Logs:
        stdout, held = _tail(self._runtime.log(self._name, "stdout"), most)
        stderr, also_held = _tail(self._runtime.log(self._name, "stderr"), most)
        return Logs(
            stdout=stdout,
            stderr=stderr,
            stdout_size=max(end.stdout_size, held),
            stderr_size=max(end.stderr_size, also_held),
        )


class ProcessRuntime:
    """Runs programs as processes of this host, through a shepherd per state directory.

    No isolation: image, limits, network, user and devices of a spec are not applied, and a spec
    that counts on mounts or on another user is refused. `SBX_RUN` is added to the
    environment, by which descendants are found that left their process group.
    """

    kind = "process"
    work_path = ""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._address = ""
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
        runtime = cls(await asyncio.to_thread(_made, state))
        runtime._address = await asyncio.to_thread(address_of, runtime._state)
        await runtime.check()
        log.warning("runtime_process", extra={"detail": "programs run without any isolation"})
        return runtime

    def log(self, name: str, output: str) -> Path:
        """Return where the shepherd keeps what a run printed."""
        return self._state / f"{name}.{output}"

    # --- the port -------------------------------------------------------------------------------

    async def find(self, name: str) -> ProcessRun | None:
        """Return the run of that name, or None."""
        answer = await self.ask({"do": "find", "name": name})
        return self._run(answer.run, adopted=True) if answer.run else None

    async def adopt_or_start(self, spec: ContainerSpec) -> ProcessRun:
        """Return the run named `spec.name`; start it if there is none of this attempt."""
        _check(spec)
        passed_on = {key: os.environ[key] for key in PASSED_ON if key in os.environ}
        asked = {
            "name": spec.name,
            "id": secrets.token_hex(8),
            "labels": dict(spec.labels),
            "attempt": int(spec.labels.get("sbx.attempt", "1")),
            "work": spec.work,
            "argv": spec.command,
            "env": passed_on | dict(spec.env),
            "log_bytes": spec.log_bytes,
            "time": time.time(),
        }
        answer = await self.ask({"do": "start", "run": asked})
        if answer.run is None:
            raise SpecRejected(answer.error)
        return self._run(answer.run, adopted=answer.adopted)

    async def remove(self, name: str) -> None:
        """Remove a run, killing it if it still lives."""
        watch = self._watches.get(name)
        if watch is None or not watch.end.done():
            await self.ask({"do": "remove", "names": [name]})
        else:
            await self._forgotten(name)
        self._watches.pop(name, None)

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

    async def missing(self, images: Sequence[str]) -> list[str]:  # noqa: ARG002 - none is needed
        """Return nothing: programs are those of the host."""
        return []

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
            except (OSError, TimeoutError) as error:
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
        if answer.n and (watch is None or watch.id != told.id):
            watch = self._watches[told.name] = Watch(told)
        if watch and watch.id == told.id and told.exit and not watch.end.done():
            watch.end.set_result(told.exit)

    def cut(self) -> None:
        """See to it that those who wait for an end hear of it, though the connection is lost."""
        pending = any(not watch.end.done() for watch in self._watches.values())
        if pending and not self._closed and (self._mending is None or self._mending.done()):
            self._mending = asyncio.get_running_loop().create_task(self._mend())

    async def _mend(self) -> None:
        for name, watch in list(self._watches.items()):
            while not watch.end.done():
                try:
                    found = (await self.ask({"do": "find", "name": name})).run
                except RuntimeUnavailable as error:
                    log.warning("shepherd_gone", extra={"detail": str(error)})
                    continue
                if found is None or found.id != watch.id:
                    detail = "the run has vanished"
                    watch.end.set_result(End(code=137, lost=True, detail=detail))
                break

    async def _forgotten(self, name: str) -> None:
        """Have an ended run forgotten, in one question with all others of this turn of the loop.

        Tasks are committed in groups, so their runs are removed in groups as well. One that still
        lives is asked for alone: the others need not wait for it to die.
        """
        if not self._leaving:
            self._asking = asyncio.get_running_loop().create_task(self._forget())
            self._asking.add_done_callback(_retrieve)
        self._leaving.append(name)
        await asyncio.shield(self._asking)

    async def _forget(self) -> None:
        names, self._leaving = self._leaving, []
        await self.ask({"do": "remove", "names": names})

    def _run(self, told: Told, *, adopted: bool) -> ProcessRun:
        return ProcessRun(self, told, self._watches[told.name], adopted)

    def _new_link(self) -> Link:
        return Link(self.note, self.cut)

    async def _connected(self) -> Link:
        if self._link is not None and self._link.alive:
            return self._link
        async with self._linking:
            if self._link is not None and self._link.alive:
                return self._link
            loop = asyncio.get_running_loop()
            try:
                _, link = await loop.create_unix_connection(self._new_link, self._address)
            except (FileNotFoundError, ConnectionRefusedError):
                await asyncio.to_thread(start_shepherd, self._state, self._address)
                _, link = await loop.create_unix_connection(self._new_link, self._address)
            self._link = link
            return link


def _retrieve(done: "asyncio.Task[None]") -> None:
    """Take note of an error that nobody waits for any more."""
    if not done.cancelled():
        done.exception()


def _check(spec: ContainerSpec) -> None:
    """Raise SpecRejected for what a plain process cannot give."""
    if not _NAME.fullmatch(spec.name):
        raise SpecRejected(f"{spec.name!r} cannot name a run")
    if not spec.command:
        raise SpecRejected("the process runtime needs a command: there is no image to have one")
    if any("\0" in text for text in (*spec.command, *spec.env, *spec.env.values())):
        raise SpecRejected("an argument or a variable holds a NUL byte")
    for mount in spec.mounts:
        if os.path.realpath(mount.source) != os.path.realpath(mount.target):
            raise SpecRejected(f"the process runtime cannot mount {mount.target}")
    if spec.user and spec.user not in (str(os.getuid()), pwd.getpwuid(os.getuid()).pw_name):
        raise SpecRejected(f"the process runtime cannot run as user {spec.user!r}")


def _made(state: str | Path | None) -> Path:
    """Make a state directory and return its one true path, by which its shepherd is found."""
    path = Path(state) if state is not None else own_directory() / "sbx-process"
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
