"""Sides of a comparison run in processes of their own, so that neither pays for the other.

A side is a function in a module named here; it gets a `Job` and returns seconds, or an answer. It
is started as `python bench --child SIDE JOB` and prints its answer as one line of JSON.
"""

import asyncio
import importlib
import os
import sys
import time
from pathlib import Path

import msgspec

BENCH = Path(__file__).resolve().parent
PATIENCE = 180.0
SIDES = {
    "engine": "bench.engine_node",
    "engine-latency": "bench.engine_latency",
    "engine-sample": "bench.engine_sample",
    "bare-latency": "bench.bare_latency",
    "engine-commit": "bench.engine_commit",
    "engine-link": "bench.engine_link",
    "engine-relay": "bench.engine_relay",
    "bare-chain": "bench.bare_chain",
    "bare-processes": "bench.bare_processes",
    "bare-containers": "bench.bare_containers",
    "bare-installed": "bench.bare_installed",
    "bare-oci": "bench.bare_oci",
    "bare-start": "bench.bare_start",
    "bare-client": "bench.bare_client",
    "bare-commit": "bench.bare_commit",
}


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What a side is to do."""

    folder: str
    """An empty folder of its own."""
    url: str = ""
    far: str = ""
    """Where the server of a second site is."""
    topology: str = ""
    """The topology as YAML."""
    tasks: int = 0
    warm: int = 0
    """So many tasks more, before the clock runs."""
    slots: int = 1
    runtime: str = ""
    image: str = ""
    command: tuple[str, ...] = ()
    store: str = ""
    """An image store."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a side measured."""

    seconds: float
    cpu: float
    """CPU seconds of the side's process meanwhile; moved less by other load than `seconds` is."""
    samples: tuple[float, ...] = ()
    """Single values, where a side measures more than one."""
    memory: float = 0.0
    """MiB that the side's process held at the end."""


class ChildFailedError(Exception):
    """A side ended without an answer."""


async def measured(side: str, job: Job) -> Answer:
    """Run a side in a process of its own and return what it measured."""
    child = await asyncio.create_subprocess_exec(
        *invocation(side, job),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )
    try:
        async with asyncio.timeout(PATIENCE):
            told, complaint = await child.communicate()
    except TimeoutError:
        raise ChildFailedError(f"{side}: no answer in {PATIENCE:g} s") from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode != 0:
        last = complaint.decode(errors="replace").strip().rpartition("\n")[2]
        raise ChildFailedError(f"{side}: exit code {child.returncode}: {last}")
    return msgspec.json.decode(told, type=Answer)


def invocation(side: str, job: Job) -> tuple[str, ...]:
    """Return the command that runs a side."""
    return (sys.executable, str(BENCH), "--child", side, msgspec.json.encode(job).decode())


def command_line() -> tuple[str, ...]:
    """Return the command `sbx-actor` of the package that is measured."""
    script = Path(sys.executable).parent / "sbx-actor"
    if script.exists():
        return (str(script),)
    return (sys.executable, "-c", "from scalebox_actors.cli import main; main()")


def environment() -> dict[str, str]:
    """Return our environment, with this checkout behind everything else on the path."""
    path = os.environ.get("PYTHONPATH", "")
    return {**os.environ, "PYTHONPATH": f"{path}:{BENCH.parent}" if path else str(BENCH.parent)}


def be_child(side: str, job: str) -> int:
    """Be a side: measure, and print the answer."""
    given = msgspec.json.decode(job, type=Job)
    Path(given.folder).mkdir(parents=True, exist_ok=True)
    work = importlib.import_module(SIDES[side]).run
    began = time.process_time()
    found = work(given)
    answer = found if isinstance(found, Answer) else Answer(seconds=found, cpu=0.0)
    answer = msgspec.structs.replace(answer, cpu=time.process_time() - began)
    sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
    return 0
