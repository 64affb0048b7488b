"""Faults of containers and of the engine that runs them."""

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import pytest
from faults.process import until
from faults.stage import Stage, show, staged
from faults.workload import STAMP, check, pipeline, shell, topology

IMAGE = "sbx/test-busybox:1"
DRAIN = 50.0
MEMORY = "32MiB"
RUNS_OF_MEMORY = 2
"""F15: one run and one retry."""
RUNS_OF_REMOVED = 2
RECOVERY = 15.0
"""F12, F13: seconds until a task ends again."""
FROZEN = 12.0
"""F13: seconds; longer than a call to the engine may take."""
SLOTS = 7
"""Of the workload, over its modules."""
CONNECTIONS = 2 * SLOTS
"""I7: for each slot one run and one clean-up may talk to the engine at a time,
and their connections are kept for the next; a frozen engine adds none."""
PROGRAM = Path(__file__).parents[2] / "deploy" / "private-dockerd"
CONTAINED: Mapping[str, object] = {
    "image": IMAGE,
    "mounts": ["witness:.:/witness:rw"],
    "env": {"WITNESS": "/witness/file", "PAUSE": "1"},
}


def reaching(stage: Stage) -> tuple[str, str]:
    """Return what a node is told, so that containers reach the witness."""
    return ("--mount-root", f"witness={stage.witness.parent}:rw")


@pytest.fixture
async def docker(tmp_path: Path, busybox_image: str) -> AsyncIterator[Stage]:
    """A stage whose nodes run containers in the engine that DOCKER_HOST names."""
    assert busybox_image == IMAGE
    async with staged(tmp_path, kind="docker") as stage:
        stage.witness = tmp_path / "witness" / "file"
        stage.witness.parent.mkdir()
        yield stage


class Dockerd:
    """A dockerd of these tests alone, with live-restore."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = str(folder / "docker.sock")

    def start(self) -> None:
        """Start it, also after it was killed."""
        done = subprocess.run(  # noqa: S603 - our own program
            [PROGRAM, "start", self.folder], capture_output=True, check=False, text=True
        )
        assert done.returncode == 0, done.stderr

    def stop(self) -> None:
        """End it and all its containers."""
        subprocess.run([PROGRAM, "stop", self.folder], check=True, capture_output=True)  # noqa: S603

    @property
    def pid(self) -> int:
        """Its process id."""
        return int((self.folder / "pid").read_text("ascii"))

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    async def ended(self, pid: int) -> None:
        """Wait until that process is gone."""

        def gone() -> bool:
            with suppress(FileNotFoundError):
                state = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2]
                return state.split()[0] == "Z"
            return True

        await until(gone, "dockerd's end", seconds=30)


@pytest.fixture(scope="module")
def dockerd(
    cannot_run: Callable[[str], NoReturn], import_busybox: Callable[[str], str]
) -> Iterator[Dockerd]:
    """A dockerd that may be killed, with the image of these tests."""
    if os.getuid() != 0 or shutil.which("dockerd") is None:
        cannot_run("only root can start a dockerd, where there is one")
    # In memory: a restart must find its images, also where the disk is an overlay.
    folder = Path(tempfile.mkdtemp(prefix="sbx-dockerd-", dir="/dev/shm"))
    daemon = Dockerd(folder)
    try:
        daemon.start()
        assert import_busybox(daemon.socket) == IMAGE
        yield daemon
    finally:
        with suppress(OSError, ValueError):
            daemon.signal(signal.SIGCONT)
        daemon.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def fragile(tmp_path: Path, dockerd: Dockerd) -> AsyncIterator[Stage]:
    """A stage whose nodes run containers in an engine that may be killed."""
    async with staged(tmp_path, kind="docker") as stage:
        stage.docker_host = f"unix://{dockerd.socket}"
        stage.witness = tmp_path / "witness" / "file"
        stage.witness.parent.mkdir()
        yield stage


async def test_a_container_out_of_memory_is_tried_once_more(docker: Stage) -> None:
    """F15: running out of memory costs two runs and one dead letter that says so."""
    hog = shell(STAMP + "trap - EXIT\nhead -c 200000000 /dev/zero | tail\n")
    modules = {
        "hog": {**CONTAINED, "command": hog, "limits": {"memory": MEMORY}},
        "good": {**CONTAINED, "command": shell(STAMP)},
    }
    await docker.deploy(topology("oom", modules))
    await docker.node("n1", *reaching(docker)).ready()
    await docker.send("hog", ["big"])
    await docker.send("good", [f"g{n}" for n in range(3)])
    took = await docker.drained(seconds=DRAIN)
    audit = await docker.audit()
    runs = audit.witness.runs["hog", "big"]
    show("F15", runs=runs, took=took)

    assert runs == RUNS_OF_MEMORY
    assert audit.dead == {"hog/big": "out_of_memory"}
    assert audit.done == {"hog": 1, "good": 3}
    assert audit.runs_left == audit.directories_left == audit.errors == ()


async def test_a_container_that_hangs_is_ended_at_its_timeout(docker: Stage) -> None:
    """F16: a container that ignores SIGTERM is dead 12 s after its timeout, with code 124."""
    script = shell(STAMP + "trap '' TERM\nwhile :; do sleep 1; done\n")
    hang = {**CONTAINED, "command": script, "timeout": 1, "retry": {"124": 0}}
    await docker.deploy(topology("hang", {"hang": hang}))
    await docker.node("n1", *reaching(docker)).ready()
    await docker.send("hang", ["h"])
    took = await docker.drained(seconds=1 + 12)
    audit = await docker.audit()
    show("F16 docker", ended_after=took)

    assert (await docker.record("hang", "h"))["exit_code"] == 124
    assert sum(audit.witness.runs.values()) == 1
    assert audit.runs_left == audit.directories_left == ()


async def test_a_container_removed_from_outside_runs_again(docker: Stage) -> None:
    """F18: a container that somebody removes is run again, and that counts as no failure."""
    once = {**CONTAINED, "command": shell(STAMP + 'sleep 2\necho "$1" >sink-tasks.txt\n')}
    await docker.deploy(topology("removed", {"once": {**once, "slots": 3, "retry": {"*": 0}}}))
    bodies = ["a", "b", "c"]
    await docker.node("n1", *reaching(docker)).ready()
    await docker.send("once", bodies)
    await until(lambda: all(docker.ran("once", body) for body in bodies), "they run", seconds=20)
    async with docker.runtime() as runtime:
        for stray in await runtime.stray({"sbx.topology": "removed"}):
            await runtime.remove(stray.name)
    recovery = await docker.drained(seconds=DRAIN)
    audit = await docker.audit()
    show("F18", runs=sum(audit.witness.runs.values()), recovery=recovery)

    assert audit.results == {"a": 1, "b": 1, "c": 1}
    assert audit.dead == {}
    assert max(audit.witness.runs.values()) <= RUNS_OF_REMOVED
    assert audit.runs_left == audit.directories_left == audit.errors == ()


async def test_a_missing_image_suspends_its_module_until_it_is_there(
    fragile: Stage, dockerd: Dockerd, import_busybox: Callable[[str], str]
) -> None:
    """F33: without its image a module is suspended and buries nothing; with it all is done."""
    modules = pipeline("/witness/file", pause=0.02, extra=CONTAINED)
    await fragile.deploy(topology("image", {"merge": modules["merge"]}))
    remove = ["docker", "-H", f"unix://{dockerd.socket}", "rmi", "-f", IMAGE]
    await asyncio.to_thread(subprocess.run, remove, check=True, capture_output=True)
    node = fragile.node("n1", *reaching(fragile), DOCKER_HOST=fragile.docker_host)
    await node.ready()
    await fragile.send("merge", ["a", "b"])
    await until(lambda: node.events("module_suspended"), "the module is suspended", seconds=20)
    dead, started = await fragile.dead(), fragile.witness.exists()
    await asyncio.to_thread(import_busybox, dockerd.socket)
    took = await fragile.drained(seconds=DRAIN)
    audit = await fragile.audit(expected_errors=["module_suspended"])
    show("F33 docker", took=took)

    assert (dead, started) == ({}, False)
    assert audit.results == {"a": 1, "b": 1}
    assert audit.witness.repeats == 0
    assert audit.runs_left == audit.directories_left == audit.errors == ()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_an_engine_that_dies_is_not_the_tasks_failure(
    fragile: Stage, dockerd: Dockerd, how: signal.Signals
) -> None:
    """F12: killed or restarted under running containers, dockerd costs no failure and no run.

    But for a start that dockerd was killed in: it forgets that one, which is told and run again.
    """
    modules = pipeline("/witness/file", pause=1.0, extra=CONTAINED)
    await fragile.deploy(topology("engine", modules))
    node = fragile.node("n1", *reaching(fragile), DOCKER_HOST=fragile.docker_host)
    await node.ready()
    await fragile.send("split", ["r0"])
    await until(lambda: fragile.started("calc") > 2, "containers run", seconds=20)
    pid = dockerd.pid
    dockerd.signal(how)
    await dockerd.ended(pid)
    await asyncio.to_thread(dockerd.start)
    recovery = await fragile.moved(seconds=RECOVERY)
    await fragile.drained(seconds=DRAIN)
    audit = await fragile.audit()
    forgotten = len(node.events("container_half_started")) + len(node.events("start_repeated"))
    repeats = audit.witness.repeats
    show("F12", how=how.name, repeats=repeats, recovery=recovery, forgotten=forgotten)

    check(audit, ["r0"], killed=len(node.events("container_half_started")))
    assert repeats <= forgotten <= SLOTS


async def test_an_engine_that_hangs_is_waited_for(fragile: Stage, dockerd: Dockerd) -> None:
    """F13: while dockerd is frozen nothing is lost and nobody is blamed; then work goes on."""
    modules = pipeline("/witness/file", pause=1.0, extra=CONTAINED)
    await fragile.deploy(topology("hung", modules))
    node = fragile.node("n1", *reaching(fragile), DOCKER_HOST=fragile.docker_host)
    await node.ready()
    before = node.descriptors()
    await fragile.send("split", ["r0"])
    await until(lambda: fragile.started("calc") > 2, "containers run", seconds=20)
    dockerd.signal(signal.SIGSTOP)
    thaw = time.monotonic() + FROZEN
    await until(lambda: time.monotonic() >= thaw, "the thaw", seconds=FROZEN + 5)
    dockerd.signal(signal.SIGCONT)
    recovery = await fragile.moved(seconds=RECOVERY)
    await fragile.drained(seconds=DRAIN)
    audit = await fragile.audit()
    opened = node.descriptors() - before
    show("F13", repeats=audit.witness.repeats, recovery=recovery, opened=opened)

    check(audit, ["r0"])
    assert audit.witness.repeats == 0
    assert opened <= CONNECTIONS
