"""What the engine's events tell of a container's end, and where they do not tell all."""

import asyncio
from collections.abc import AsyncGenerator
from typing import cast

import msgspec
import pytest

from scalebox_actors.runtimes.docker import DockerRuntime
from scalebox_actors.runtimes.docker_body import Traits
from scalebox_actors.runtimes.docker_engine import Engine
from scalebox_actors.runtimes.docker_events import Events, Watch

CUT = "cut"
Told = tuple[str, int, str]
"""An event: what, when, and the exit code that it says."""


class Narrator:
    """An engine that has nothing but events."""

    host = "tcp://elsewhere"
    traits = Traits()

    def __init__(self) -> None:
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue()

    def tell(self, told: Told) -> None:
        """Say something of the container, or be cut off."""
        what, when, code = told
        attributes = {"exitCode": code} if code else {}
        event = {
            "Action": what,
            "Actor": {"ID": "c", "Attributes": attributes},
            "timeNano": when * 10**9,
        }
        self._pieces.put_nowait(b"" if what == CUT else msgspec.json.encode(event) + b"\n")

    async def stream(self, path: str, params: object) -> AsyncGenerator[bytes, None]:
        """Tell what there is to tell, up to a cut."""
        del path, params
        yield b""
        while piece := await self._pieces.get():
            yield piece
            self._pieces.task_done()
        self._pieces.task_done()

    async def heard(self) -> None:
        """Wait until all that was said has been taken in."""
        await self._pieces.join()

    async def call(self, *_: object) -> bytes:
        """Answer that the container runs."""
        return b'[{"Id": "c"}]'


async def heard(told: list[Told], *, unsure: bool = False) -> tuple[float, float] | None:
    """Return start and end of the container as events tell them, if they tell all."""
    narrator = Narrator()
    engine = cast("Engine", narrator)
    events = Events(engine)
    runtime = DockerRuntime(engine, events)
    await events.ready()
    watch: Watch = events.watch("c")
    watch.unsure = unsure
    for one in told:
        narrator.tell(one)
        await narrator.heard()
        await events.ready()  # again, after a cut
    end = runtime.heard_exit(watch)
    await events.close()
    return None if end is None else (end.started, end.finished)


@pytest.mark.parametrize(
    ("told", "end"),
    [
        pytest.param([("start", 1, ""), ("die", 2, "0")], (1.0, 2.0), id="success"),
        pytest.param([("start", 1, "")], None, id="runs"),
        pytest.param([("start", 1, ""), ("die", 2, "3")], None, id="failure"),
        pytest.param([("die", 2, "0")], None, id="start-missed"),
        pytest.param([("start", 1, ""), ("oom", 2, ""), ("die", 2, "0")], None, id="memory"),
        pytest.param(
            [("start", 1, ""), (CUT, 0, ""), ("die", 2, "0")], None, id="something-missed"
        ),
        pytest.param([("start", 1, ""), ("die", 2, "0"), ("start", 3, "")], None, id="again"),
    ],
)
async def test_an_end_is_heard_where_events_tell_all(
    told: list[Told], end: tuple[float, float] | None
) -> None:
    """Else it is looked at."""
    assert await heard(told) == end


async def test_a_container_with_a_limit_is_looked_at() -> None:
    """Its event of memory may come late."""
    assert await heard([("start", 1, ""), ("die", 2, "0")], unsure=True) is None
