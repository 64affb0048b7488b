"""Containers that were started ahead: what a program sees, and what is left, as without them."""

import asyncio
import io
import logging
import shutil
import tarfile
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from scalebox_actors.launch import workdir
from scalebox_actors.launch.environment import Surroundings
from scalebox_actors.launch.fresh import FreshLauncher
from scalebox_actors.launch.workplace import Workplace
from scalebox_actors.message import Message
from scalebox_actors.names import waits
from scalebox_actors.ports import Runtime, Task
from scalebox_actors.records import Cause, Outcome
from scalebox_actors.runtimes.docker import DockerRuntime
from scalebox_actors.runtimes.oci import OciRuntime
from scalebox_actors.runtimes.oci_images import ImageStore
from scalebox_actors.runtimes.process import ProcessRuntime
from scalebox_actors.topology.model import Duration, Keep, Module

pytestmark = pytest.mark.timeout(90)

SEEN = r"""
printf '<%s>' "$@"; echo; pwd
env | sort | grep -v -e '^HOSTNAME=' -e '^SBX_RUN=' -e '^PWD=' -e '^SHLVL='
id; umask; ls -ln . | sed 's/ [A-Z][a-z][a-z] .*:.. / /'; cat body headers.json
for fd in /proc/self/fd/*; do echo "${fd##*/}"; done; ulimit -n
printf 'answer\n' >sink-tasks.txt
"""
BODY = 'it\'s \n$(x) `y` \\ "é" \t*? ~ -n \x7f'.encode()


class Host:
    """A host with one kind of runtime, and launchers of modules on it."""

    def __init__(self, kind: str, place: Path, image: str, images: ImageStore | None) -> None:
        self.kind, self.image = kind, image
        self._place, self._images = place, images
        self.base = workdir.make_base(place / "base")
        self.topology = f"t{uuid.uuid4().hex[:12]}"
        self.runtime: Runtime
        self._launchers: list[FreshLauncher] = []

    async def open(self) -> None:
        """Connect to the runtime."""
        if self.kind == "process":
            self.runtime = await ProcessRuntime.open(self._place / "state")
        elif self._images is not None:
            self.runtime = await OciRuntime.over(self._images, self._place / "state")
        else:
            self.runtime = await DockerRuntime.open()

    async def launcher(self, *command: str, warm: int = 1, **more: object) -> FreshLauncher:
        """Return the launcher of a module whose warm containers wait."""
        module = Module(
            name="a",
            image=self.image,
            command=command,
            warm=warm,
            timeout=Duration(60),
        )
        module = msgspec.structs.replace(module, **more)
        place = Workplace(
            runtime=self.runtime,
            base=self.base,
            surroundings=Surroundings(topology=self.topology, node="n1", ip="127.0.0.1"),
            modules=("a",),
        )
        made = FreshLauncher(module, place)
        made.open()
        self._launchers.append(made)
        return made

    async def full(self, launcher: FreshLauncher) -> FreshLauncher:
        """Wait until all that are to wait do so."""
        await until(lambda: launcher.states.get("ready") == launcher._module.warm)
        return launcher

    async def names(self) -> set[str]:
        """Return the containers that there are."""
        strays = await self.runtime.stray({"sbx.topology": self.topology})
        return {stray.name for stray in strays}

    async def names_with(self, *wanted: str) -> set[str]:
        """Wait until there are containers of these names, and return all."""
        async with asyncio.timeout(20):
            while not (found := await self.names()).issuperset(wanted):  # noqa: ASYNC110 - an engine
                await asyncio.sleep(0.02)
        return found

    async def close(self) -> None:
        """End everything; raises if a launcher left something."""
        for launcher in self._launchers:
            await launcher.close()
        left = [name for name in await self.names() if waits(name)]
        for name in await self.names():
            await self.runtime.remove(name)
        await self.runtime.close()
        assert left == []


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition of the world outside."""
    async with asyncio.timeout(40):
        while not condition():  # noqa: ASYNC110 - containers and files send no events here
            await asyncio.sleep(0.01)


@pytest.fixture(
    params=[
        "process",
        pytest.param("docker", marks=pytest.mark.integration),
        pytest.param("oci", marks=pytest.mark.integration),
    ]
)
async def host(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Host]:
    """Return a host with the runtime in question."""
    image = request.getfixturevalue("busybox_image") if request.param == "docker" else "img"
    images = request.getfixturevalue("oci_images") if request.param == "oci" else None
    image = "sbx/test-busybox:1" if images is not None else image
    made = Host(request.param, tmp_path, image, images)
    await made.open()
    yield made
    await made.close()


def task(name: str = "m1", body: bytes = b"x", attempt: int = 1, slot: int = 3) -> Task:
    """Return a task with a body."""
    message = Message(module="a", id=name, body=body, headers={"Key": 'v "1"'}, from_module="z")
    return Task(message=message, attempt=attempt, slot=slot)


async def done(launcher: FreshLauncher, what: Task) -> Outcome:
    """Run a task and clear what it left."""
    outcome = await launcher.run(what)
    await launcher.clear(what, outcome)
    return outcome


async def test_a_program_sees_the_same_as_in_a_container_of_its_own(host: Host) -> None:
    """Arguments to the byte, environment, directory, files, user, descriptors, outputs."""
    command = ("/bin/sh", "-c", SEEN, "prog", "it's", "")
    env = {"GREETING": "a 'b' \\ $c\n`d` é"}
    # A plain process is told the seat that it gets in its module's lane, the first one here.
    what = task(body=BODY, slot=0 if host.kind == "process" else 3)
    cold = await done(await host.launcher(*command, warm=0, env=env), what)
    warm = await host.full(await host.launcher(*command, env=env))

    seen = await done(warm, what)

    assert (cold.exit_code, cold.stderr.text) == (0, "")
    assert seen.stdout.text.splitlines() == cold.stdout.text.splitlines()
    assert BODY.decode() in seen.stdout.text
    assert (seen.emissions, seen.exit_code, seen.stderr.text) == (cold.emissions, 0, "")


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 3", 3), ("exit 125", 125), ("exit 127", 127)]
)
async def test_exit_codes(host: Host, script: str, code: int) -> None:
    """A code is the program's, also where it is one that a gate knows."""
    launcher = await host.full(await host.launcher("/bin/sh", "-c", script))

    outcome = await done(launcher, task())

    assert (outcome.exit_code, outcome.cause) == (code, Cause.EXIT)


async def test_each_is_used_once(host: Host) -> None:
    """Tasks at once each get a container, waiting or new; the pool is full again afterwards."""
    script = "echo x >>/tmp/$WARM_TEST; cat /tmp/$WARM_TEST; rm /tmp/$WARM_TEST"
    env = {"WARM_TEST": host.topology}
    launcher = await host.full(await host.launcher("/bin/sh", "-c", script, warm=2, env=env))
    before = await host.names()
    tasks = [task(f"m{number}") for number in range(5)]
    if host.kind == "process":  # which shares its /tmp
        outcomes = [await launcher.run(each) for each in tasks]
    else:
        outcomes = await asyncio.gather(*(launcher.run(each) for each in tasks))
    await host.full(launcher)

    names = await host.names_with(*map(launcher._place.name, tasks))
    assert [outcome.stdout.text for outcome in outcomes] == ["x\n"] * 5
    assert len(before) == 2
    assert not before & names
    for each in tasks:
        await launcher.clear(each)


async def test_a_run_begins_when_its_gate_opens(host: Host) -> None:
    """The time before a message is not the program's: neither its run time nor its time limit."""
    launcher = await host.full(await host.launcher("/bin/sh", "-c", "sleep 0.2"))
    await asyncio.sleep(1.0)
    outcome = await done(launcher, task())

    assert 0.1 < outcome.finished - outcome.started < 0.9


async def test_a_program_that_hangs_is_ended_at_its_limit(host: Host) -> None:
    """A time limit holds as in a new container, with everything that the program started."""
    script = "sleep 300 & sleep 300"
    launcher = await host.full(await host.launcher("/bin/sh", "-c", script, timeout=Duration(0.5)))

    outcome = await done(launcher, task())

    assert (outcome.exit_code, outcome.cause) == (124, Cause.TIMEOUT)


async def test_a_task_can_be_stopped(host: Host) -> None:
    """Cancelled, its container ends under the name that it has now."""
    launcher = await host.full(await host.launcher("/bin/sh", "-c", "echo >started; sleep 300"))
    run = asyncio.create_task(launcher.run(task()))
    started = launcher._place.directory(task()).path / "started"
    await until(started.exists)

    await launcher.stop(task())

    assert (await run).exit_code in (137, 143)
    await launcher.clear(task())


@pytest.mark.parametrize("program", ["/nowhere/program", "/etc/passwd"])
async def test_a_program_that_cannot_be_executed_is_told(
    host: Host, program: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No container waits for it, which is said once; the run says why, as a cold one does."""
    with caplog.at_level(logging.WARNING):
        launcher = await host.launcher(program)
        await until(lambda: bool(launcher._warm.why))
    outcome = await done(launcher, task())

    assert outcome.cause is Cause.NOT_STARTED
    assert [record.message for record in caplog.records].count("warm_off") == 1


async def test_a_program_that_vanishes_is_told(host: Host, tmp_path: Path) -> None:
    """A program that is gone when its message comes has not been started: it is no exit code."""
    if host.kind != "process":
        return
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    launcher = await host.full(await host.launcher(str(program)))
    program.unlink()

    outcome = await done(launcher, task())

    assert (outcome.cause, outcome.exit_code) == (Cause.NOT_STARTED, 127)
    assert str(program) in outcome.detail


async def test_one_that_is_killed_while_it_waits_is_replaced(host: Host) -> None:
    """A dead container is given to nobody."""
    launcher = await host.full(await host.launcher("/bin/sh", "-c", "exit 0"))
    (name,) = await host.names()
    run = await host.runtime.find(name)
    assert run is not None

    await run.stop(0.1)
    await until(lambda: not launcher._warm._ready[0].alive)
    outcome = await done(launcher, task())

    assert (outcome.exit_code, outcome.cause) == (0, Cause.EXIT)
    await host.full(launcher)
    assert name not in await host.names()


async def test_one_that_is_too_old_is_replaced(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `keep.age` none that waits is older; another takes its place."""
    monkeypatch.setattr("scalebox_actors.launch.warm.WARM_LOOK", 0.1)
    keep = Keep(age=Duration(1))
    launcher = await host.full(await host.launcher("/bin/sh", "-c", "exit 0", keep=keep))
    first = await host.names()

    await until(lambda: first != {parked.name for parked in launcher._warm._ready})
    await host.full(launcher)

    assert first != await host.names()


async def test_a_message_that_is_too_large_for_a_shell_is_run_cold(host: Host) -> None:
    """What has to be an argument and is long gets a container of its own, with the same bytes."""
    launcher = await host.full(await host.launcher("/bin/sh", "-c", 'echo "${#1}"', "p"))
    (name,) = await host.names()
    outcome = await done(launcher, task(body=b"y" * 131_071))

    assert outcome.stdout.text == "131071\n"
    assert name in await host.names()


async def test_the_next_attempt_gets_another(host: Host) -> None:
    """What a failed run left is not seen by the next one, and its number is the next."""
    script = "ls; echo >left; echo $SBX_ATTEMPT; exit 9"
    launcher = await host.full(await host.launcher("/bin/sh", "-c", script, warm=2))

    first = await launcher.run(task())
    second = await launcher.run(task(attempt=2))
    third = await done(launcher, task(attempt=2))

    assert first.stdout.text == "body\nheaders.json\n1\n"
    assert second.stdout.text == "body\nheaders.json\n2\n"
    assert third.stdout.text == second.stdout.text  # adopted: it had ended
    left = await asyncio.to_thread(files_of, host.base)  # once: the next ones are being made
    assert [name for name in left if not waits(name)] == []


async def test_nothing_is_left(host: Host) -> None:
    """When a launcher is closed, neither containers nor directories of its own remain."""
    launcher = await host.full(await host.launcher("/bin/sh", "-c", "exit 0", warm=3))
    await done(launcher, task())

    await launcher.close()

    assert await host.names() == set()
    assert await asyncio.to_thread(files_of, host.base) == []


def files_of(base: Path) -> Sequence[str]:
    """Return what is in a directory."""
    return sorted(path.name for path in base.iterdir())


async def test_what_a_dead_node_left_at_the_gate_ends_by_itself(host: Host) -> None:
    """With its node its pipe ends, so that a container which waits needs nobody to end it."""
    launcher = await host.full(await host.launcher("/bin/sh", "-c", "exit 0"))
    (name,) = await host.names()
    (parked,) = launcher._warm._ready
    assert parked._pipes is not None

    parked._pipes.close()  # what the kernel does for a process that is killed
    run = await host.runtime.find(name)

    assert run is not None
    assert (await run.wait()).code == 125


async def test_a_container_that_got_its_task_and_not_its_word_is_not_taken_for_a_run(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that died between the two leaves a container that has run nothing."""
    launcher = await host.full(await host.launcher("/bin/sh", "-c", "echo ran >sink-tasks.txt"))
    (parked,) = launcher._warm._ready
    pipes = parked._pipes
    assert pipes is not None

    async def die(data: bytes) -> None:
        del data
        pipes.close()
        raise ConnectionError

    pipes.say = die  # type: ignore[method-assign]
    with monkeypatch.context() as dying:
        dying.setattr(launcher._warm, "_throw_away", lambda _: None)  # the dead remove nothing
        with pytest.raises(ConnectionError):
            await launcher.run(task())
    assert await launcher.underway(task())
    again = await host.launcher("/bin/sh", "-c", "echo ran >sink-tasks.txt", warm=0)
    outcome = await done(again, task())

    assert [emission.body for emission in outcome.emissions] == [b"ran"]


@pytest.mark.integration
async def test_an_image_without_a_shell_is_run_cold(
    tmp_path: Path,
    docker_socket: str,
    import_layer: Callable[..., str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No container of it can wait at a gate: one warning, and every message gets a new one."""
    name = f"sbx/test-shellless:{uuid.uuid4().hex[:8]}"
    image = await asyncio.to_thread(import_layer, docker_socket, name, shellless())
    host = Host("docker", tmp_path, image, None)
    await host.open()
    with caplog.at_level(logging.WARNING):
        launcher = await host.launcher("/prog/busybox", "true", warm=2)
        await until(lambda: bool(launcher._warm.why))
        outcome = await done(launcher, task())
    await host.close()

    assert (outcome.exit_code, outcome.cause) == (0, Cause.EXIT)
    assert "/bin/sh" in launcher._warm.why
    assert [record.message for record in caplog.records].count("warm_off") == 1


@pytest.mark.integration
@pytest.mark.parametrize("command", [(), ("given",)])
async def test_an_image_s_entry_point_is_executed(
    tmp_path: Path,
    docker_socket: str,
    import_layer: Callable[..., str],
    busybox_layer: bytes,
    command: tuple[str, ...],
) -> None:
    """As without `warm`: the entry point, then the command, then what the message says."""
    name = f"sbx/test-entry:{uuid.uuid4().hex[:8]}"
    changes = 'ENTRYPOINT ["/bin/echo", "entry point"]\nCMD ["of the image"]'
    image = await asyncio.to_thread(import_layer, docker_socket, name, busybox_layer, changes)
    host = Host("docker", tmp_path, image, None)
    await host.open()
    cold = await done(await host.launcher(*command, warm=0), task())
    launcher = await host.full(await host.launcher(*command))
    outcome = await done(launcher, task())
    await host.close()

    assert outcome.stdout.text == cold.stdout.text
    assert outcome.stdout.text.startswith(" ".join(["entry point", *command, 'x {"Key":']))


def shellless() -> bytes:
    """Return the files of an image that has one program and no shell."""
    data = Path(shutil.which("busybox") or "").read_bytes()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        file = tarfile.TarInfo("prog/busybox")
        file.size, file.mode = len(data), 0o755
        layer.addfile(file, io.BytesIO(data))
    return buffer.getvalue()
