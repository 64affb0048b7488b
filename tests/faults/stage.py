"""A stage for faults: a nats-server, nodes as real processes, and somebody who watches both.

Everything lives in one temporary folder and on loopback. What is started here is ended by its
process id. Nothing sleeps for a fixed time: conditions are awaited.
"""

import contextlib
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from faults.process import NodeProcess, until
from faults.workload import Audit, read_witness

from scalebox_actors.broker import JetStreamBroker, Link, connect
from scalebox_actors.broker.streams import NS, consumer_config
from scalebox_actors.launch.spares import INNER, INPUTS, PREFIX
from scalebox_actors.launch.workdir import OWNER
from scalebox_actors.local import Site
from scalebox_actors.message import MSG_ID, REASON
from scalebox_actors.names import Names
from scalebox_actors.ports import Entry, Runtime, Stored
from scalebox_actors.runtimes.process import ProcessRuntime
from scalebox_actors.server import EmbeddedServer, Settings
from scalebox_actors.topology.load import load

ACK_WAIT = 3.0
"""Seconds, instead of 60: tests wait for redeliveries. Nodes beat at a third of it."""
FEW = 20
SHORTEST_WINDOW = NS // 10
CLEARED = 8.0
"""A node looks for strays 5 s after its start and then every minute."""


class Stage:
    """One topology on one nats-server; made by `staged`."""

    def __init__(self, folder: Path, server: EmbeddedServer, kind: str) -> None:
        self.folder = folder
        self.server = server
        self.kind = kind
        self.witness = folder / "witness"
        self.work = folder / "work"
        self.docker_host = os.environ.get("DOCKER_HOST", "")
        self.nodes: list[NodeProcess] = []
        self.events: list[tuple[str, str]] = []
        self._link: Link | None = None
        self._site: Site | None = None
        self._modules: tuple[str, ...] = ()

    @property
    def link(self) -> Link:
        """The watcher's own connection."""
        assert self._link is not None
        return self._link

    @property
    def site(self) -> Site:
        """The topology as an operator sees it."""
        assert self._site is not None
        return self._site

    @property
    def names(self) -> Names:
        """The subjects of the topology."""
        return self.site.names

    async def connect(self) -> None:
        """Make the watcher's connection anew."""
        self._link = await connect(
            self.server.url, name="faults", events=lambda *event: self.events.append(event)
        )

    async def deploy(self, text: bytes, *, ack_wait: float = ACK_WAIT) -> None:
        """Deploy a topology, with consumers that redeliver after `ack_wait`."""
        topology = load(text, path="faults")
        self._site = Site(self.link, Names(topology.name), None)
        self._modules = tuple(topology.modules)
        await self._site.deploy(topology)
        for module in self._modules:
            config = {**consumer_config(self.names, module), "ack_wait": round(ack_wait * NS)}
            verb = f"CONSUMER.DURABLE.CREATE.{self.names.stream}.{self.names.consumer(module)}"
            await self.link.api(verb, {"stream_name": self.names.stream, "config": config})

    def node(self, name: str = "n1", *options: str, topology: str = "", **env: str) -> NodeProcess:
        """Start a node of the deployed topology, or of a file."""
        arguments = [
            "node",
            topology or self.names.topology,
            *("--name", name, "--log-json", "--runtime", self.kind),
            *("--nats", self.server.url, "--work", str(self.work), *options),
        ]
        node = NodeProcess(arguments, self.folder / f"{name}-{len(self.nodes)}.log", env)
        self.nodes.append(node)
        return node

    async def broker(self) -> JetStreamBroker:
        """Return the stream as a publisher uses it."""
        return await self.site.broker()

    async def send(self, module: str, bodies: Iterable[str]) -> None:
        """Send messages whose ids are their bodies; all are accepted when this returns."""
        entries = [
            Entry(subject=self.names.task(module), body=body.encode(), headers={MSG_ID: body})
            for body in bodies
        ]
        injected = await (await self.broker()).inject(entries)
        assert injected.stored == len(entries), injected

    # --- looking --------------------------------------------------------------------------------

    async def waiting(self) -> dict[str, int]:
        """Return how many messages have not ended, module by module.

        A server that ran out of disk may keep messages that were acked: those have a record.
        """
        waiting = {}
        for module in self._modules:
            counts = await self.site.admin.list_subjects(self.names.task(module))
            waiting[module] = sum(counts.values())
            if 0 < waiting[module] <= FEW:
                async for page in self.site.admin.messages(self.names.task(module)):
                    waiting[module] -= sum([await self._has_ended(module, one) for one in page])
        return waiting

    async def _has_ended(self, module: str, stored: Stored) -> bool:
        subject = self.names.done(module, stored.headers.get(MSG_ID, "none"))
        return subject in await self.site.admin.list_subjects(subject)

    async def done(self, module: str = "*") -> int:
        """Return how many done-records there are."""
        return sum((await self.site.admin.list_subjects(self.names.done(module, "*"))).values())

    async def drained(self, *, seconds: float) -> float:
        """Wait until every accepted message has ended, and return how long that took."""

        async def nothing_waits() -> bool:
            for node in self.nodes[-1:]:
                assert node.exit_code is None, node.log.read_text("utf-8")
            return not any((await self.waiting()).values())

        return await until(nothing_waits, "nothing waits any more", seconds=seconds)

    async def moved(self, *, seconds: float) -> float:
        """Wait until one more task has ended, and return how long that took."""
        before = await self.done()

        async def more() -> bool:
            return await self.done() > before

        return await until(more, "another task ended", seconds=seconds)

    async def results(self) -> Counter[str]:
        """Return what was emitted, and how often."""
        found: Counter[str] = Counter()
        async for page in self.site.admin.messages(self.names.result("*")):
            found.update(stored.body.decode() for stored in page)
        return found

    async def dead(self) -> dict[str, str]:
        """Return `module/id` and reason of every dead letter."""
        found: dict[str, Any] = {}
        async for page in self.site.admin.messages(self.names.dead("*", "*")):
            for stored in page:
                module, task = stored.subject.split(".", 5)[4:]
                found[f"{module}/{task}"] = stored.headers.get(REASON, "")
        return found

    async def record(self, module: str, task: str) -> dict[str, Any]:
        """Return the done-record of a task."""
        stored = await (await self.broker()).read(self.names.done(module, task))
        assert stored is not None
        record: dict[str, Any] = json.loads(stored.body)
        return record

    async def traces(self) -> dict[str, dict[str, Any]]:
        """Return the last run record of every task, by its id."""
        found: dict[str, Any] = {}
        async for page in self.site.admin.trace_messages():
            for stored in page:
                records = [json.loads(line) for line in stored.body.splitlines()]
                found |= {record["id"]: record for record in records}
        return found

    async def forget_ids(self) -> None:
        """Let the server forget which ids it has seen, as it does when their window is over."""
        info = await self.link.api(f"STREAM.INFO.{self.names.stream}")
        config = info["config"]
        assert isinstance(config, dict)
        short = {**config, "duplicate_window": SHORTEST_WINDOW}
        await self.link.api(f"STREAM.UPDATE.{self.names.stream}", short)

    async def letters(self, module: str) -> list[str]:
        """Return the bodies of a module's dead letters."""
        pages = self.site.admin.messages(self.names.dead(module, "*"))
        return [stored.body.decode() async for page in pages for stored in page]

    def ran(self, module: str, task: str) -> bool:
        """Whether a task was started."""
        return (module, task) in read_witness(self.witness).runs

    def started(self, module: str) -> int:
        """Return how many tasks of a module were started."""
        return sum(of == module for of, _ in read_witness(self.witness).runs)

    def logs_on_disk(self) -> int:
        """Return how many bytes the runs' outputs take."""
        size = 0
        for path in self.work.glob("shepherd.*/*.std*"):
            with contextlib.suppress(FileNotFoundError):
                size += path.stat().st_size
        return size

    def directories(self) -> tuple[str, ...]:
        """Return the work directories that are left, but for empty ones that are used again."""
        if not self.work.exists():
            return ()
        names = (p.name for p in self.work.iterdir() if not _is_spare(p))
        return tuple(sorted(n for n in names if not n.startswith(("shepherd.", "node."))))

    async def strays(self, node: str = "n1") -> tuple[str, ...]:
        """Return the runs that are left."""
        async with self.runtime(node) as runtime:
            labels = {"sbx.topology": self.names.topology}
            return tuple(sorted(stray.name for stray in await runtime.stray(labels)))

    @asynccontextmanager
    async def runtime(self, node: str = "n1") -> AsyncIterator[Runtime]:
        """Open the runtime that a node has."""
        runtime: Runtime
        if self.kind == "process":
            state = self.work / f"shepherd.{self.names.topology}.{node}"
            runtime = await ProcessRuntime.open(state)
        else:
            from scalebox_actors.runtimes.docker import DockerRuntime  # noqa: PLC0415 - rarely

            runtime = await DockerRuntime.open(self.docker_host)
        try:
            yield runtime
        finally:
            await runtime.close()

    async def audit(self, *, expected_errors: Iterable[str] = ()) -> Audit:
        """Look at everything that was stored and left; wait first for what cleans up."""
        allowed = set(expected_errors)

        async def clean() -> bool:
            return not self.directories() and not await self.strays()

        with contextlib.suppress(AssertionError):
            await until(clean, "the last runs are cleared", seconds=CLEARED)
        records = await self.site.admin.list_subjects(self.names.done("*", "*"))
        per_module: Counter[str] = Counter()
        for subject, count in records.items():
            per_module[subject.split(".")[4]] += count
        errors = [
            f"{record['event']}: {record.get('error', record.get('why', ''))}"
            for node in self.nodes
            for record in node.events()
            if record.get("level") in ("error", "critical") and record["event"] not in allowed
        ]
        return Audit(
            results=await self.results(),
            done=per_module,
            doubled_records=sum(records.values()) - len(records),
            dead=await self.dead(),
            waiting=await self.waiting(),
            witness=read_witness(self.witness),
            runs_left=await self.strays(),
            directories_left=self.directories(),
            errors=tuple(errors),
        )

    async def close(self) -> None:
        """End every node and whatever they left running."""
        for node in self.nodes:
            if node.exit_code is None:
                with contextlib.suppress(ProcessLookupError):
                    node.signal(signal.SIGCONT)
                node.kill()
            else:
                await node.ended()
        try:
            if self._site is not None and self.work.exists():
                await self._remove_runs()
        finally:
            if self._link is not None:
                await self._link.close()

    async def _remove_runs(self) -> None:
        async with self.runtime() as runtime:
            for stray in await runtime.stray({"sbx.topology": self.names.topology}):
                await runtime.remove(stray.name)


@asynccontextmanager
async def staged(
    folder: Path, *, kind: str = "process", settings: Settings | None = None
) -> AsyncIterator[Stage]:
    """Open a stage: a server with a store of its own in `folder`, and a watcher's connection."""
    with EmbeddedServer(folder / "store", settings) as server:
        stage = Stage(folder, server, kind)
        await stage.connect()
        try:
            yield stage
        finally:
            await stage.close()


def show(row: str, **numbers: object) -> None:
    """Print what a row measured; `pytest -s` or a failure shows it."""
    told = " ".join(
        f"{name}={value:.2f}" if isinstance(value, float) else f"{name}={value}"
        for name, value in numbers.items()
    )
    print(f"\n[{row}] {told}")  # noqa: T201 - numbers for people


def _is_spare(path: Path) -> bool:
    """Whether a work directory is kept to be used again: it holds what the node made, no more."""
    if not path.name.startswith(PREFIX):
        return False
    try:
        held = {str(p.relative_to(path)) for p in path.rglob("*")}
        return held - {f"{INNER}/{name}" for name in INPUTS} == {OWNER, INNER}
    except FileNotFoundError:
        return True  # it went while we looked: a node that ends takes its spares away
