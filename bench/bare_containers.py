"""The baseline of the docker runtime: aiodocker creates, starts, waits and removes, in a loop.

The create request is made by the product's own function, so that both sides ask for the very same
container, work directory and all; exits come from one stream of events, as they do there.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiodocker
import aiohttp

from bench.bare_spec import ARGUMENTS, bare_spec
from bench.children import Job
from scalebox_actors.runtimes.docker_body import create_body
from scalebox_actors.runtimes.docker_engine import Engine

API = "v1.41"
LABEL = "sbx.topology"


def socket_path() -> str:
    """Return the path of the engine's socket."""
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if not host.startswith("unix://"):
        raise RuntimeError(f"DOCKER_HOST {host}: the baseline knows unix sockets only")
    return host.removeprefix("unix://")


@asynccontextmanager
async def engine() -> AsyncIterator[aiodocker.Docker]:
    """Open the engine without aiodocker's limit of connections."""
    connector = aiohttp.UnixConnector(socket_path(), limit=0)
    docker = aiodocker.Docker("unix://localhost", connector=connector, api_version=API)
    try:
        yield docker
    finally:
        await docker.close()
        await connector.close()


async def body(job: Job, name: str, *, arguments: tuple[str, ...] = ARGUMENTS) -> dict[str, Any]:
    """Return the create request that the product would make; `Any`, as aiodocker types it."""
    learned = await Engine.open(None, deny_list=False)
    await learned.close()
    spec = bare_spec(job, name, Path(job.folder) / name, arguments)
    return create_body(spec, learned.traits)


class Exits:
    """Who waits for which container's end, by the stream of events."""

    def __init__(self, docker: aiodocker.Docker) -> None:
        self._docker = docker
        self._ends: dict[str, asyncio.Future[str]] = {}

    def expect(self, container: str) -> "asyncio.Future[str]":
        """Return a future of the exit code; to miss nothing, before the start."""
        end = self._ends[container] = asyncio.get_running_loop().create_future()
        return end

    async def listen(self) -> None:
        """Read events until cancelled."""
        events = self._docker.events.subscribe()  # type: ignore[no-untyped-call]  # aiodocker's
        while True:
            event = await events.get()
            if event is None:
                raise RuntimeError("the stream of events has ended")
            end = self._ends.get(event["Actor"]["ID"])
            if event.get("Action") == "die" and end is not None:
                end.set_result(event["Actor"]["Attributes"]["exitCode"])


def run(job: Job) -> float:
    """Return the seconds for `job.tasks` containers, `job.slots` of them at once."""
    return asyncio.run(looped(job, body))


async def looped(
    job: Job, make: Callable[[Job, str], Coroutine[None, None, dict[str, Any]]]
) -> float:
    """Run containers of the requests that `make` returns, and time them."""
    async with engine() as docker:
        bodies = [await make(job, f"bare-{number}") for number in range(job.slots)]
        exits = Exits(docker)
        listening = asyncio.create_task(exits.listen())
        await asyncio.sleep(0.5)  # until the stream stands; no answer of the engine tells
        numbers = iter(range(job.tasks))

        async def worker(config: dict[str, Any]) -> None:
            for number in numbers:
                container = await docker.containers.create(config, name=f"bare-{number}")
                end = exits.expect(container.id)
                await container.start()
                if await end != "0":
                    raise RuntimeError(f"{job.command} ended with {end.result()}")
                await container.delete(force=True, v=True)

        began = time.perf_counter()
        await asyncio.gather(*map(worker, bodies))
        seconds = time.perf_counter() - began
        listening.cancel()
        return seconds
