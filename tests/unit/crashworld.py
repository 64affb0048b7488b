"""A whole node on doubles that can be killed at every call, and the checks that follow.

A *life* runs from a start of the node to its death or until nothing is left to do. A scenario is
lived again and again with faults on its tape; whatever dies, the last life must leave every task
ended exactly once, its outputs stored exactly once, and nothing behind on the host.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from scalebox_actors.actor import Actor
from scalebox_actors.errors import RuntimeUnavailable, Unavailable
from scalebox_actors.names import Names
from scalebox_actors.node import Node, Settings
from scalebox_actors.ports import Entry, Runtime
from scalebox_actors.records import DoneRecord
from scalebox_actors.testing.memory import MemoryBroker
from scalebox_actors.testing.scripted import Host, ScriptedRun, ScriptedRuntime
from scalebox_actors.testing.tape import Fault, Killed, Tape
from scalebox_actors.topology.model import Topology

NAMES = Names("t")
LIVES = 12
QUIET_POLLS = 6
STUCK_SECONDS = 20.0


class Taped:
    """A runtime, or one of its runs, whose every call is written on the tape."""

    def __init__(self, inner: object, tape: Tape, prefix: str) -> None:
        self._inner, self._tape, self._prefix = inner, tape, prefix

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if not asyncio.iscoroutinefunction(value):
            return value

        async def call(*args: object, **named: object) -> object:
            try:
                number = await self._tape.before(f"{self._prefix}.{name}")
                result = await value(*args, **named)
                await self._tape.after(number)
            except Unavailable as error:
                raise RuntimeUnavailable(str(error)) from error
            return Taped(result, self._tape, "run") if isinstance(result, ScriptedRun) else result

        return call


class World:
    """A stream, a host, and one node after the other."""

    def __init__(
        self, topology: Topology, host: Host, base: Path, faults: dict[int, Fault] | None = None
    ) -> None:
        self.topology, self.host, self.base = topology, host, base
        self.tape = Tape(faults)
        self.broker = MemoryBroker(NAMES, list(topology.modules), tape=self.tape)
        self.lives = 0
        self.lanes = False
        """Whether runs take turns on the host, so that more are asked for than there are slots."""

    async def live(self) -> None:
        """Let nodes live until one of them has nothing left to do."""
        while not await self._one_life():
            self.broker.crash()
            self.broker.advance(61)
            self.tape.next_life()
            assert self.lives < LIVES, f"never ends: {self.tape.calls[-40:]}"

    async def sweep(self) -> None:
        """Let one more node remove what was left behind, when every grace is over."""
        self.tape._faults.clear()
        node = self._node()
        node.since = 0.0
        for container in self.host.containers.values():
            if container.end is not None:
                container.end = msgspec.structs.replace(container.end, finished=1.0)
        for directory in self.base.iterdir():
            os.utime(directory, (1.0, 1.0))
        await node.reap()

    def waiting(self) -> list[str]:
        """The subjects of tasks that have not ended."""
        return [stored.subject for stored in self.broker.messages("sbx.t.local.task.*")]

    def records(self) -> dict[str, DoneRecord]:
        """How each task ended, by `module.id`."""
        return {
            ".".join(stored.subject.split(".")[4:]): msgspec.json.decode(
                stored.body, type=DoneRecord
            )
            for stored in self.broker.messages("sbx.t.local.done.>")
        }

    def bodies(self, pattern: str) -> list[bytes]:
        """The sorted bodies of what is stored on matching subjects."""
        return sorted(stored.body for stored in self.broker.messages(pattern))

    def leftovers(self) -> list[str]:
        """Containers, and work directories with something in them."""
        directories = [path.name for path in self.base.iterdir()] if self.base.exists() else []
        return sorted([*self.host.containers, *directories])

    def _node(self) -> Node:
        runtime: Runtime = Taped(ScriptedRuntime(self.host, lanes=self.lanes), self.tape, "runtime")
        settings = Settings(name="n1", base=self.base, folder=Path(__file__).parent)
        return Node(self.topology, self.broker, runtime, settings)

    async def _one_life(self) -> bool:
        """Live once; returns whether everything was done before the end."""
        self.lives += 1
        node = self._node()
        warm = [a for a in node.actors.values() if a.module.warm]
        if warm and not await self._warmed(node, warm):
            return False
        work = [
            asyncio.ensure_future(node._committer.run()),
            *(asyncio.ensure_future(actor.run()) for actor in node.actors.values()),
        ]
        try:
            return await self._until_done(list(node.actors.values()), work)
        finally:
            self.tape.dead = True  # whatever this node still wants to do, it is dead
            hands = [hand for actor in node.actors.values() for hand in actor._hands]
            for task in (*work, *hands):
                task.cancel()
            await asyncio.gather(*work, *hands, return_exceptions=True)
            await _bury(warm)
            self.tape.dead = False

    async def _warmed(self, node: Node, actors: list[Actor]) -> bool:
        """Let containers wait for the messages, as far as faults allow; False if the node died."""
        filling = asyncio.ensure_future(_fill(node, actors))
        await asyncio.wait([filling])
        if not self.tape.dead and not filling.cancelled() and filling.exception() is None:
            return True
        self.tape.dead = True
        await _bury(actors)
        self.tape.dead = False
        return False

    async def _until_done(
        self, actors: list[Actor], work: Sequence["asyncio.Future[None]"]
    ) -> bool:
        quiet, seen = 0, 0
        deadline = asyncio.get_running_loop().time() + STUCK_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.0002)
            if self.tape.dead or any(task.done() for task in work):
                return False  # killed, or a part of the node has ended: it is started anew
            idle = not any(len(actor._hands) for actor in actors)
            if idle and not self.waiting():
                return True
            quiet = quiet + 1 if len(self.tape.calls) == seen else 0
            seen = len(self.tape.calls)
            if idle and quiet > QUIET_POLLS:
                self.broker.advance(61)  # a delay, or the ack_wait of what was let go
                quiet = 0
        raise AssertionError(f"stuck: {self.tape.calls[-40:]}")


async def _fill(node: Node, actors: list[Actor]) -> None:
    """Do what a node does at its start, until a first try to start containers ahead is over."""
    await node._clear_former()
    for actor in actors:
        pool = actor._launcher._warm  # type: ignore[attr-defined]  # it is a fresh one
        pool.open()
        while not (pool._starts or pool._keeper.done()):  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0)
        if pool._starts:
            await asyncio.wait(pool._starts)


async def _bury(actors: list[Actor]) -> None:
    """Let go of what waited for messages as the kernel does when a process dies."""
    for actor in actors:
        pool = actor._launcher._warm  # type: ignore[attr-defined]  # it is a fresh one
        waiting = [*pool._ready, *pool._starting]
        keeper = [pool._keeper] if pool._keeper else []
        tasks = [*keeper, *pool._starts, *pool._removals]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for parked in waiting:
            parked.let_go()


def silence_the_dead() -> None:
    """Let no task that died with its process complain that nobody asked for its end."""

    def quiet(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), Killed | Unavailable):
            loop.default_exception_handler(context)

    asyncio.get_running_loop().set_exception_handler(quiet)


async def count_calls(make: Callable[[dict[int, Fault] | None], World]) -> int:
    """Return how many calls a scenario makes when nothing goes wrong."""
    world = make(None)
    await world.live()
    return len(world.tape.calls)


def entry_of(record: str) -> Entry:
    """A done-record that somebody else has stored."""
    return Entry(
        subject=record, body=msgspec.json.encode({"ended": "done", "node": "other"}), expect=0
    )


@contextlib.contextmanager
def told(faults: dict[int, Fault], world: World) -> Any:
    """Name faults and calls beside whatever fails inside."""
    try:
        yield
    except AssertionError as error:
        at = {
            number: world.tape.calls[number - 1]
            for number in faults
            if number <= len(world.tape.calls)
        }
        raise AssertionError(f"{faults} at {at}: {error}\n{world.tape.calls}") from error
