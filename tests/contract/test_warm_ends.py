"""Containers that were started ahead: how they end, and what is left of them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from contract.laboratory import KINDS
from contract.warmhost import Host, done, files_of, task, until, warm_host

from scalebox_actors.names import waits
from scalebox_actors.records import Cause
from scalebox_actors.topology.model import Duration, Keep

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(params=KINDS)
async def host(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Host]:
    """Return a host with the runtime in question."""
    async with warm_host(request, tmp_path) as made:
        yield made


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
