"""Containers that were started ahead: what a program sees and does in them, as in new ones."""

import asyncio
import io
import logging
import shutil
import tarfile
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from contract.laboratory import KINDS
from contract.warmhost import Host, done, task, until, warm_host

from scalebox_actors.records import Cause

pytestmark = pytest.mark.timeout(90)

SEEN = r"""
printf '<%s>' "$@"; echo; pwd
env | sort | grep -v -e '^HOSTNAME=' -e '^SBX_RUN=' -e '^PWD=' -e '^SHLVL='
id; umask; ls -ln . | sed 's/ [A-Z][a-z][a-z] .*:.. / /'; cat body headers.json
for fd in /proc/self/fd/*; do echo "${fd##*/}"; done; ulimit -n
printf 'answer\n' >sink-tasks.txt
"""
BODY = 'it\'s \n$(x) `y` \\ "é" \t*? ~ -n \x7f'.encode()


@pytest.fixture(params=KINDS)
async def host(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Host]:
    """Return a host with the runtime in question."""
    async with warm_host(request, tmp_path) as made:
        yield made


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


async def test_a_message_that_is_too_large_for_a_shell_is_run_cold(host: Host) -> None:
    """What has to be an argument and is long gets a container of its own, with the same bytes."""
    launcher = await host.full(await host.launcher("/bin/sh", "-c", 'echo "${#1}"', "p"))
    (name,) = await host.names()
    outcome = await done(launcher, task(body=b"y" * 131_071))

    assert outcome.stdout.text == "131071\n"
    assert name in await host.names()


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
