"""One container of ours, as whoever waits for it has it in hand."""

import asyncio
import contextlib
import math
from typing import Protocol

from scalebox_actors.limits import ENGINE_CALL
from scalebox_actors.ports import Exit, Logs
from scalebox_actors.runtimes.docker_answers import NOT_STARTED, Answer, Step
from scalebox_actors.runtimes.docker_engine import FOREVER, PATIENCE, Engine
from scalebox_actors.runtimes.docker_events import Watch
from scalebox_actors.runtimes.docker_inspect import KILLED, Inspected
from scalebox_actors.runtimes.docker_logs import Frames
from scalebox_actors.runtimes.init_words import judged_end


class Host(Protocol):
    """The runtime that a container belongs to."""

    engine: Engine

    async def inspect(self, container: str, *, patience: float = PATIENCE) -> Inspected | None:
        """Return what the engine knows of a container, or None if there is none."""

    def heard_exit(self, watch: Watch) -> Exit | None:
        """Return how a container ended, if events have told all of it."""

    def read_exit(self, found: Inspected, watch: Watch) -> Exit:
        """Read how a container ended, and whether that was its own doing."""


class DockerRun:
    """A container of ours."""

    waits = False

    def __init__(self, runtime: Host, watch: Watch, adopted: bool) -> None:
        self._runtime, self._watch = runtime, watch
        self._adopted = adopted
        self._news = None if adopted else watch.news
        self._end: Exit | None = None

    @property
    def name(self) -> str:
        """The container's name."""
        return self._watch.name

    @property
    def adopted(self) -> bool:
        """Whether it was there before we asked for it."""
        return self._adopted

    async def begun(self, patience: float, *, leave: bool) -> float | None:  # noqa: ARG002
        """Say that it did, and that nobody knows when: it never waits."""
        return 0.0

    def failed_to_start(self, answer: Answer) -> None:
        """Settle that the engine could not execute the program."""
        code = NOT_STARTED[answer.kind]
        self._end = Exit(code=code, not_started=True, detail=answer.text.strip())

    async def wait(self) -> Exit:
        """Return how it ended; an engine that goes and comes back is waited for."""
        while self._end is None:
            if self._news is not None:
                await asyncio.shield(self._news)  # others wait for the same news
            # Taken before looking, so that nothing can happen unnoticed in between.
            self._news = self._watch.news
            self._end = self._runtime.heard_exit(self._watch) or await self._look()
        return self._end

    async def _look(self) -> Exit | None:
        """Return how it ended, as the engine tells who asks; None while it runs."""
        found = await self._runtime.inspect(self._watch.container, patience=FOREVER)
        if found is None:
            return Exit(code=KILLED, lost=True, detail="the container was removed from outside")
        if not found.ended:
            return None
        return await judged_end(self._runtime.read_exit(found, self._watch), self)

    async def stop(self, grace: float) -> None:
        """Terminate it, kill it after `grace`; with its first process everything in it ends."""
        self._watch.ended_by_us = True
        whole = max(0, math.ceil(grace))
        await self._runtime.engine.call(
            Step.OTHER,
            lambda: self._runtime.engine.request(
                "POST", f"containers/{self._watch.container}/stop", {"t": whole}
            ),
            limit=whole + ENGINE_CALL,
            patience=whole + PATIENCE,
        )

    async def logs(self, most: int) -> Logs:
        """Return the ends of what it printed; the engine keeps no more than a bounded log."""

        async def read() -> Logs:
            frames = Frames(most)
            path = f"containers/{self._watch.container}/logs"
            both = self._runtime.engine.stream(path, {"stdout": 1, "stderr": 1})
            async with contextlib.aclosing(both) as pieces:
                async for piece in pieces:
                    frames.feed(piece)
            return frames.logs

        logs = await self._runtime.engine.call(Step.OTHER, read, limit=3 * ENGINE_CALL)
        return Logs() if isinstance(logs, Answer) else logs
