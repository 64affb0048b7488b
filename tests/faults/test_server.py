"""Faults of nats-server: killed, frozen, out of disk, streams deleted."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.process import until
from faults.stage import ACK_WAIT, Stage, show, staged
from faults.workload import check, pipeline, topology

from scalebox_actors.limits import KIB

KILLS = 8
RECOVERY_FROM_KILL = 5.0
"""F4: seconds from the server's restart to the next task that ends."""
DRAIN = 40.0
FROZEN = 2.0
"""F5: seconds; shorter than the `ack_wait` of these tests, as 30 s is shorter than 60."""
FROZEN_LONG = ACK_WAIT + 10.0
"""F5: longer than `ack_wait`, and longer than the client needs to notice."""
SLOTS = 4
SMALL_DISK = 48
"""F21: MiB."""
LEFT_ON_DISK = 128 * KIB
RECOVERY_OF_DISK = 15.0
"""F21: seconds from free space, and a restart where the server needs one, to the next task."""
UNAVAILABLE = 69


async def test_a_killed_server_loses_nothing_and_is_found_again(stage: Stage) -> None:
    """F4: after each kill of nats-server work goes on within 5 s; nothing is lost or doubled."""
    seed = random.randrange(2**32)  # noqa: S311 - a seed, not a secret
    chance = random.Random(seed)  # noqa: S311 - moments, not secrets
    roots = [f"r{n}" for n in range(30)]
    await stage.deploy(topology("server", pipeline(stage.witness)))
    await stage.send("split", roots)
    await stage.node().ready()
    recoveries = []
    for _ in range(KILLS):
        moment = time.monotonic() + chance.uniform(0.0, 0.8)
        await until(lambda: time.monotonic() >= moment, "the moment", seconds=5)  # noqa: B023
        os.kill(stage.server.pid, signal.SIGKILL)
        await stage.server.wait()
        stage.server.start()
        recoveries.append(await stage.moved(seconds=RECOVERY_FROM_KILL))
    await stage.drained(seconds=DRAIN)
    audit = await stage.audit()
    show("F4", seed=seed, runs=sum(audit.witness.runs.values()), repeats=audit.witness.repeats,
         recovery=max(recoveries))  # fmt: skip

    check(audit, roots)
    assert audit.witness.repeats == 0


@pytest.mark.parametrize(
    ("seconds", "repeats"),
    [
        pytest.param(FROZEN, 0, id="shorter-than-ack_wait"),
        pytest.param(FROZEN_LONG, SLOTS, id="longer-than-ack_wait"),
    ],
)
async def test_a_frozen_server_stops_nothing_that_runs(
    stage: Stage, seconds: float, repeats: int
) -> None:
    """F5: while nats-server is frozen programs go on and commits wait; then all is as it was."""
    roots = [f"r{n}" for n in range(4)]
    await stage.deploy(topology("frozen", pipeline(stage.witness, pause=0.4, slots=SLOTS)))
    await stage.send("split", roots)
    await stage.node().ready()
    await stage.moved(seconds=10)
    os.kill(stage.server.pid, signal.SIGSTOP)
    thaw = time.monotonic() + seconds
    await until(lambda: time.monotonic() >= thaw, "the thaw", seconds=seconds + 5)
    os.kill(stage.server.pid, signal.SIGCONT)
    recovery = await stage.moved(seconds=RECOVERY_FROM_KILL)
    await stage.drained(seconds=DRAIN)
    audit = await stage.audit()
    show("F5", frozen=seconds, repeats=audit.witness.repeats, recovery=recovery)

    check(audit, roots)
    assert audit.witness.repeats <= repeats


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MB."""
    if os.getuid() != 0:
        pytest.skip("only root can mount a small disk")
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}m", "none", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:  # noqa: S603
        pytest.skip("nothing can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)  # noqa: S603, S607


async def test_a_full_disk_of_the_server_means_wait_and_not_drop(small_disk: Path) -> None:
    """F21: work waits while JetStream's disk is full and is done after; nothing is buried for it.

    nats-server 2.15 refuses a stream after a failed write until it is restarted, which is then
    done here as an operator would.
    """
    roots = [f"r{n}" for n in range(6)]
    async with staged(small_disk / "server") as stage:
        stage.work = small_disk.parent / "work"  # only the server's disk is full
        stage.witness = small_disk.parent / "witness"
        await stage.deploy(topology("full", pipeline(stage.witness)))
        await stage.send("split", roots)
        ballast = small_disk / "ballast"
        free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
        ballast.write_bytes(bytes(free - LEFT_ON_DISK))
        node = stage.node()
        await node.ready()
        await until(lambda: node.events("write_waits"), "a commit waits", seconds=30)
        done = await stage.done()
        ballast.unlink()
        broken = "Critical write error" in stage.server.log.read_text("utf-8")
        if broken:
            stage.server.stop()
            stage.server.start()
        recovery = await stage.moved(seconds=RECOVERY_OF_DISK)
        await stage.drained(seconds=DRAIN)
        audit = await stage.audit()
        show("F21", done_when_full=done, restarted=broken, repeats=audit.witness.repeats,
             recovery=recovery)  # fmt: skip

        check(audit, roots)
        assert audit.witness.repeats == 0


async def test_a_deleted_stream_ends_the_node_and_is_not_made_again(stage: Stage) -> None:
    """F40: a node whose stream was deleted says which and ends with 69; the stream stays gone."""
    await stage.deploy(topology("gone", pipeline(stage.witness)))
    await stage.send("split", ["r0"])
    node = stage.node()
    await node.ready()
    await stage.moved(seconds=20)
    await stage.link.api(f"STREAM.DELETE.{stage.names.stream}")
    code = await node.ended(seconds=20)

    assert code == UNAVAILABLE
    assert stage.names.stream in node.log.read_text("utf-8").splitlines()[-1]
    assert not await stage.site.admin.exists()


async def test_a_deleted_consumer_is_made_again(stage: Stage) -> None:
    """F40: a consumer that an operator deleted is made again, and its messages are done."""
    roots = [f"r{n}" for n in range(3)]
    await stage.deploy(topology("again", pipeline(stage.witness)))
    await stage.send("split", roots)
    node = stage.node()
    await node.ready()
    await stage.moved(seconds=20)
    await stage.link.api(f"CONSUMER.DELETE.{stage.names.stream}.{stage.names.consumer('calc')}")
    await stage.drained(seconds=DRAIN)
    audit = await stage.audit()
    show("F40", repeats=audit.witness.repeats)

    check(audit, roots)
    assert node.events("consumer_made_again")
