"""Case `memory`: what an idle node holds, and that waiting messages do not make it more."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from bench.bare_containers import socket_path
from bench.children import ChildFailedError, Job, command_line, environment, invocation
from bench.figures import Bar, Effort, Figure
from bench.ground import Ground, ground, inject, program
from bench.machine import resident_kib
from scalebox_actors.names import Names
from scalebox_actors.topology.model import Launch, Module, Topology
from scalebox_actors.topology.render import render

TITLE = "memory: an idle node, and a node before waiting messages"
HOW = """\
Resident memory from /proc of `sbx-actor node` and of the nats-server. Idle: one module on the
docker runtime (process, if no engine answers), no message. Then a node whose 64 slots are all
held, while messages are injected in batches; it is looked at two seconds after each level is
reached. Baseline of the idle node: Python with uvloop and nats-py on one connection. Baseline of
the others: the same process before 1,000 waiting messages."""

LEAST = 55.0
"""A million messages are stored; there are no rounds."""
WHOLE = True
"""Its depths are what is asked about."""
SETTLE = 2.0
PATIENCE = 30.0
SLOTS = 64
FLAT = Bar(limit=1.05, at_least=False, of_ratio=True)
IDLE = Bar(limit=80, at_least=False)


async def run(folder: Path, effort: Effort) -> list[Figure]:
    """Measure MiB of node and server, idle and before more and more waiting messages."""
    levels = (1_000, 100_000) if effort.quick else (1_000, 100_000, 1_000_000)
    async with ground(folder) as site:
        return [*await _idle(site, folder), *await _waiting(site, folder, levels)]


async def _idle(site: Ground, folder: Path) -> list[Figure]:
    has_engine = await asyncio.to_thread(Path(socket_path()).exists)
    runtime = "docker" if has_engine else "process"
    topology = program("idle", 4, "/bin/true", image="none")
    async with _node(site, folder, topology, "--runtime", runtime) as pid:
        await asyncio.sleep(SETTLE)
        node, server = _mib(pid), _mib(site.server.pid)
    job = Job(folder=str(folder), url=site.url)
    async with _child(invocation("bare-client", job)) as client:
        if client.stdout is None or await client.stdout.readline() != b"ready\n":
            raise ChildFailedError("bare-client did not connect")
        bare = _mib(client.pid)
    return [
        Figure(
            name=f"idle node ({runtime})",
            unit="MiB",
            ours=(node,),
            against="nats-py and uvloop, idle",
            baseline=(bare,),
            bar=IDLE,
        ),
        Figure(
            name="idle node and nats-server",
            unit="MiB",
            ours=(node + server,),
            against="nats-py and nats-server",
            baseline=(bare + server,),
        ),
    ]


async def _waiting(site: Ground, folder: Path, levels: Sequence[int]) -> list[Figure]:
    module = Module(name="held", function="functions:hold", launch=Launch.FUNCTION, slots=SLOTS)
    topology = Topology(name="waiting", modules={"held": module})
    broker = await site.lay(topology)
    held: dict[int, tuple[float, float]] = {}
    async with _node(site, folder, topology) as pid:
        there = 0
        for level in levels:
            await inject(broker, "held", level - there, first=there)
            there = level
            await asyncio.sleep(SETTLE)
            held[level] = _mib(pid), _mib(site.server.pid)
    least = levels[0]
    figures = []
    for level in levels[1:]:
        for place, who in enumerate(("node", "nats-server")):
            figures.append(
                Figure(
                    name=f"{who}, {level:,} messages waiting",
                    unit="MiB",
                    ours=(held[level][place],),
                    against=f"the same with {least:,}",
                    baseline=(held[least][place],),
                    bar=FLAT if who == "node" else None,
                )
            )
    return figures


@asynccontextmanager
async def _node(
    site: Ground, folder: Path, topology: Topology, *options: str
) -> AsyncIterator[int]:
    """Run a node and give its process id once it waits for messages."""
    await site.lay(topology)
    file = folder / f"{topology.name}.yaml"
    file.write_bytes(render(topology))
    # A topology's functions are looked for beside it.
    shutil.copy(Path(__file__).with_name("functions.py"), folder)
    command = (
        *(*command_line(), "node", str(file), "--name", "bench", "--nats", site.url),
        *("--store", str(folder / topology.name), *options),
    )
    async with _child(command) as node:
        await _until_pulling(site, topology, node)
        yield node.pid


async def _until_pulling(
    site: Ground, topology: Topology, node: asyncio.subprocess.Process
) -> None:
    names = Names(topology.name)
    consumer = names.consumer(next(iter(topology.modules)))
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and node.returncode is None:
        info = await site.link.api(f"CONSUMER.INFO.{names.stream}.{consumer}")
        if info["num_waiting"]:
            return
        await asyncio.sleep(0.05)
    raise ChildFailedError(f"the node of {topology.name} does not pull")


@asynccontextmanager
async def _child(command: Sequence[str]) -> AsyncIterator[asyncio.subprocess.Process]:
    child = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=environment(),
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.terminate()
        try:
            async with asyncio.timeout(PATIENCE):
                await child.communicate()
        except TimeoutError:
            child.kill()
            await child.wait()


def _mib(pid: int) -> float:
    return round(resident_kib(pid) / 1024, 1)
