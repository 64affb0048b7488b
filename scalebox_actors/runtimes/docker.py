"""Containers of a Docker-compatible engine: dockerd, or podman's service.

A container's name is the lock: it is created by name, and a name that is taken means *adopt*.
Exits are heard of on one stream of events (docker_events.py) and, where that does not tell all,
read from inspect (docker_inspect.py); what an answer means is one table (docker_answers.py).
"""

import asyncio
import json
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Self
from weakref import WeakValueDictionary

import msgspec

from scalebox_actors.errors import ImageMissing, RuntimeUnavailable, SpecRejected
from scalebox_actors.limits import ENGINE_CALL
from scalebox_actors.ports import Exit, Stray
from scalebox_actors.runtimes.arguments import check_arguments
from scalebox_actors.runtimes.docker_answers import NOT_STARTED, Answer, Kind, Step
from scalebox_actors.runtimes.docker_body import WORK, Program, create_body
from scalebox_actors.runtimes.docker_engine import PATIENCE, Engine
from scalebox_actors.runtimes.docker_events import OURS, Events, Watch
from scalebox_actors.runtimes.docker_images import find_image, identity_of, program_of
from scalebox_actors.runtimes.docker_inspect import (
    Inspected,
    Listed,
    attempt_of,
    booted,
    exit_of,
    read_inspected,
    seconds,
    stray_of,
)
from scalebox_actors.runtimes.docker_orphans import end_processes
from scalebox_actors.runtimes.docker_run import DockerRun
from scalebox_actors.runtimes.docker_usage import Meter
from scalebox_actors.runtimes.mounts import real_mounts
from scalebox_actors.runtimes.turns import Turns
from scalebox_actors.spec import ContainerSpec

START_WAIT = 2.0
"""So long a container is left to whoever created it before we start it ourselves."""
TURNS = 25
"""So often a container that vanishes or changes under our hands is looked at anew."""
REMOVALS = max(2, os.cpu_count() or 1)
"""So many containers are removed at once, beside those that start: more slow an engine down."""
REMOVAL_WAIT = 2.0
OWNER = frozenset((OURS, "sbx.node"))
"""The labels that say whose containers they are; a list by these has all of them."""
log = logging.getLogger(__name__)


class DockerRuntime:
    """Containers of one engine on this host."""

    kind = "docker"
    work_path = WORK
    lanes = False

    def __init__(self, engine: Engine, events: Events) -> None:
        self.engine, self._events = engine, events
        self._containers: dict[str, str] = {}
        """The ids of the containers in hand, by name: what has one need not be asked for labels."""
        self._names: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._removals = Turns(REMOVALS, REMOVAL_WAIT)
        self._meter = Meter.of(engine.traits, engine.host)
        self._boot = booted()

    @classmethod
    async def open(cls, host: str | None = None, *, deny_list: bool = False) -> Self:
        """Connect to `host`, or DOCKER_HOST, or the usual socket.

        `deny_list` is the operator's choice of a short seccomp list over the engine's profile.
        Raises RuntimeUnavailable if nothing answers, NotPermitted for plain TCP.
        """
        engine = await Engine.open(host, deny_list=deny_list)
        events = Events(engine)
        try:
            async with asyncio.timeout(ENGINE_CALL):
                await events.ready()
        except TimeoutError as error:
            await events.close()
            await engine.close()
            raise RuntimeUnavailable(f"{engine.host}: no stream of events") from error
        return cls(engine, events)

    # --- the port -------------------------------------------------------------------------------

    async def find(self, name: str) -> DockerRun | None:
        """Return the container of that name if it is ours, in whatever state, or None."""
        found = await self.inspect(name)
        if found is None or OURS not in found.labels:
            return None
        return self._run(name, found.id, adopted=True)

    async def adopt_or_start(self, spec: ContainerSpec) -> DockerRun:
        """Return the container named `spec.name`; create and start it if there is none."""
        check_arguments(spec)
        if spec.mounts:
            guarded = (spec.work, self.engine.socket)
            mounts = await asyncio.to_thread(real_mounts, spec.mounts, guarded)
            spec = msgspec.structs.replace(spec, mounts=mounts)
        # Callers of this node take turns, so that none sees another's container half made.
        async with self._names.setdefault(spec.name, asyncio.Lock()):
            parent = self._meter.begin(spec.name, spec.labels)
            run = None
            try:
                run = await self._adopt_or_start(spec, parent)
            finally:
                if run is None or run.adopted:
                    self._meter.drop(parent)
        return run

    async def _adopt_or_start(self, spec: ContainerSpec, parent: str) -> DockerRun:
        program = await program_of(self.engine, spec.image) if spec.wrapper else Program()
        body = create_body(spec, self.engine.traits, program, parent)
        for _ in range(TURNS):
            made = await self.engine.call(
                Step.CREATE,
                lambda: self.engine.request("POST", "containers/create", {"name": spec.name}, body),
            )
            if not isinstance(made, Answer):
                created = msgspec.json.decode(made, type=_Created)
                self._meter.note(created.id, parent)
                watch = self._events.watch(created.id)
                # Podman does not tell that memory has run out.
                watch.unsure = spec.memory is not None or self.engine.traits.podman
                watch.parent = parent
                run = await self._start(spec.name, created.id, adopted=False)
            elif made.kind is Kind.NAME_TAKEN:
                run = await self._adopt(spec, made)
            elif made.kind is Kind.IMAGE_MISSING:
                raise ImageMissing(made.text.strip())
            else:
                raise SpecRejected(made.text.strip())
            if run is not None:
                return run
        raise RuntimeUnavailable(f"container {spec.name} changes faster than it can be adopted")

    async def rename(self, name: str, new: str) -> bool:
        """Give a container of ours another name, unless that is taken."""
        container = await self._ours(name)
        if container is None:
            return False
        path = f"containers/{container}/rename"
        async with self._names.setdefault(new, asyncio.Lock()):
            told = await self.engine.call(
                Step.RENAME, lambda: self.engine.request("POST", path, {"name": new})
            )
            if isinstance(told, Answer):  # or it is taken by this one, and an answer was lost
                found = await self.inspect(new)
                if found is None or found.id != container:
                    return False
            self._containers.pop(name, None)
            self._containers[new] = container
            self._events.watch(container).name = new
        return True

    async def remove(self, name: str) -> None:
        """Remove a container of ours, killing it if it lives."""
        container = await self._ours(name)
        self._containers.pop(name, None)
        if container is not None:
            await self._delete(container)

    async def stray(self, labels: Mapping[str, str]) -> list[Stray]:
        """Return every container of ours that carries all of `labels`."""
        wanted = [OURS, *(f"{name}={value}" for name, value in labels.items())]
        query: dict[str, str | int] = {"all": 1, "filters": json.dumps({"label": wanted})}
        told = await self.engine.call(
            Step.OTHER, lambda: self.engine.request("GET", "containers/json", query)
        )
        if isinstance(told, Answer):
            raise RuntimeUnavailable(told.text)
        strays, parents = [], set()
        for listed in msgspec.json.decode(told, type=list[Listed]):
            found = await self.inspect(listed.id)
            if found is not None:
                strays.append(stray_of(found, listed.names[0].lstrip("/")))
                parents.add(found.parent)
        if labels.keys() <= OWNER:
            self._meter.sweep(labels.get("sbx.node", ""), labels.get(OURS, ""), parents)
        return strays

    async def missing(self, images: Sequence[str]) -> list[str]:
        """Return those images that are not on this host."""
        return [image for image in images if await find_image(self.engine, image) is None]

    async def identity(self, image: str) -> str:
        """Return the image's id."""
        return await identity_of(self.engine, image)

    async def check(self) -> None:
        """Raise RuntimeUnavailable if the engine does not answer."""
        await self.engine.ping()

    async def close(self) -> None:
        """Hang up; containers run on."""
        await self._events.close()
        await self.engine.close()

    # --- containers -----------------------------------------------------------------------------

    async def inspect(self, container: str, *, patience: float = PATIENCE) -> Inspected | None:
        """Return what the engine knows of a container, or None if there is none."""
        told = await self.engine.call(
            Step.OTHER,
            lambda: self.engine.request("GET", f"containers/{container}/json"),
            patience=patience,
        )
        if isinstance(told, Answer):
            return None
        found = read_inspected(told)
        self._meter.note(found.id, found.parent)
        return found

    def heard_exit(self, watch: Watch) -> Exit | None:
        """Return how a container ended of which events have told all: it has done its work."""
        if watch.unsure or not (watch.started and watch.succeeded):
            return None
        end = Exit(code=0, started=watch.started, finished=max(watch.started, watch.succeeded))
        return self._meter.measured(end, watch.parent)

    def read_exit(self, found: Inspected, watch: Watch) -> Exit:
        """Read how a container ended, and whether that was its own doing."""
        finished = seconds(found.state.finished_at)
        if watch.ended_by_us:
            return self._meter.measured(exit_of(found), found.parent)
        unseen = finished < watch.since or self._events.engine_was_stopped(finished)
        end = exit_of(found, signalled=watch.signalled, unseen=unseen, boot=self._boot)
        return self._meter.measured(end, found.parent)

    def _run(self, name: str, container: str, *, adopted: bool) -> DockerRun:
        self._containers[name] = container
        watch = self._events.watch(container)
        watch.name = name
        return DockerRun(self, watch, adopted)

    async def _ours(self, name: str) -> str | None:
        """Return the id of our container of that name."""
        if name in self._containers:
            return self._containers[name]
        found = await self.inspect(name)
        return None if found is None or OURS not in found.labels else found.id

    async def _adopt(self, spec: ContainerSpec, taken: Answer) -> DockerRun | None:
        """Take over the container that has our name; None if it had to go, or has gone."""
        found = await self.inspect(spec.name)
        if found is None:
            return None
        if OURS not in found.labels:
            raise SpecRejected(f"{taken.text.strip()}; it is not ours, so it was left alone")
        # With another work directory it is another node's: its outputs would never be found.
        if attempt_of(found.labels) < attempt_of(spec.labels) or found.work != spec.work:
            await self._delete(found.id)
            return None
        if found.state.status in ("removing", "dead"):
            await self._delete(found.id)
            return None
        if found.waits_for_start:
            age = time.time() - seconds(found.created)
            if 0.0 <= age < START_WAIT and not found.state.error:
                # Somebody else may be about to start it, and a start too many runs it twice.
                await asyncio.sleep(START_WAIT / (TURNS - 5))
                return None
            return await self._start(spec.name, found.id, adopted=True)
        return self._run(spec.name, found.id, adopted=True)

    async def _start(self, name: str, container: str, *, adopted: bool) -> DockerRun | None:
        # Killed before this, there is a container that waits for its start: the next delivery
        # finds it by its name and starts it.
        run = self._run(name, container, adopted=adopted)
        answer = await self.engine.call(Step.START, self._starter(container))
        if not isinstance(answer, Answer):
            return run
        if answer.kind is Kind.GONE:
            return None
        if answer.kind in NOT_STARTED:
            run.failed_to_start(answer)
            return run
        if answer.kind is Kind.HALF_STARTED:
            await self._give_up(name, container)
            return None
        await self._delete(container)
        raise SpecRejected(answer.text.strip())

    async def _give_up(self, name: str, container: str) -> None:
        """Remove a container that can never be started again; another takes its name.

        Its program may run or have run, but nobody will ever be told with which exit code.
        """
        log.warning("container_half_started", extra={"run": name})
        if not await asyncio.to_thread(end_processes, container):
            raise RuntimeUnavailable(f"container {name} runs, and its engine does not know it")
        await self._delete(container)

    def _starter(self, container: str) -> Callable[[], Awaitable[bytes]]:
        """Return what starts a container once, however often it is called.

        An engine runs a container that has ended once more when it is told to start it. So when
        an answer was lost, look before asking again.
        """
        repeated = False

        async def start() -> bytes:
            nonlocal repeated
            if repeated:
                found = await self.engine.request("GET", f"containers/{container}/json")
                if not read_inspected(found).waits_for_start:
                    return b""
                # An engine that died in it may have forgotten a start, and even a whole run.
                log.warning("start_repeated", extra={"container": container})
                self._events.watch(container).unsure = True
            repeated = True
            return await self.engine.request("POST", f"containers/{container}/start")

        return start

    async def _delete(self, container: str) -> None:
        self._events.watch(container).ended_by_us = True
        path, how = f"containers/{container}", {"force": 1, "v": 1}
        async with self._removals.turn():
            await self.engine.call(Step.OTHER, lambda: self.engine.request("DELETE", path, how))
            self._meter.end(container)


class _Created(msgspec.Struct, rename="pascal"):
    id: str
