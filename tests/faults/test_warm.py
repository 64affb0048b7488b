"""Faults of nodes whose containers are started ahead: as without them, and nothing is left."""

import random
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from faults.process import EXIT_OF_TERM, NodeProcess, until
from faults.stage import CLEARED, Stage, show, staged
from faults.workload import pipeline, topology

from scalebox_actors.names import waits

KILLS = {"process": 2, "docker": 2}
MESSAGES = {"process": 16, "docker": 8}
DRAIN = 50.0
WARM = 2


@pytest.fixture(params=["process", "docker"])
async def warm(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stage]:
    """A stage with the runtime in question, whose modules have warm containers."""
    if request.param == "docker":
        request.getfixturevalue("busybox_image")
    async with staged(tmp_path, kind=request.param) as stage:
        stage.witness = tmp_path / "witness" / "file"
        stage.witness.parent.mkdir()
        yield stage


def modules(stage: Stage) -> dict[str, object]:
    """Return a module of the workload, with warm containers."""
    extra: dict[str, object] = {"warm": WARM}
    if stage.kind == "docker":
        extra |= {"image": "sbx/test-busybox:1", "mounts": ["witness:.:/witness:rw"]}
    where = "/witness/file" if stage.kind == "docker" else stage.witness
    calc = pipeline(where, slots=2, extra=extra)["calc"]
    return {"calc": {**calc, "sinks": []}}  # type: ignore[dict-item]  # a map, as all of them


def start(stage: Stage) -> NodeProcess:
    """Start a node; only a container needs a mount."""
    if stage.kind == "docker":
        return stage.node("n1", "--mount-root", f"witness={stage.witness.parent}:rw")
    return stage.node()


async def only_waiting(stage: Stage) -> bool:
    """Whether nothing is left on the host but what waits for messages.

    What an earlier life kept has ended with it, or was never started: it is there until the node
    looks for strays, some seconds after its start.
    """
    async with stage.runtime() as runtime:
        found = await runtime.stray({"sbx.topology": stage.names.topology})
    waiting = {stray.name for stray in found if stray.running and waits(stray.name)}
    return len(waiting) == len(found) and waiting.issuperset(stage.directories())


async def test_a_node_killed_again_and_again_runs_nothing_twice(warm: Stage) -> None:
    """F1: killed at random moments, a node finds the containers that it had given to tasks.

    Told to end at last, it leaves neither containers nor directories, its own lives' or others'.
    """
    seed = random.randrange(2**32)  # noqa: S311 - a seed, not a secret
    chance = random.Random(seed)  # noqa: S311 - moments, not secrets
    bodies = [f"b{n}" for n in range(MESSAGES[warm.kind])]
    await warm.deploy(topology("warmkill", modules(warm)))
    await warm.send("calc", bodies)
    node = start(warm)
    for _ in range(KILLS[warm.kind]):
        await node.ready()
        moment = time.monotonic() + chance.uniform(0.3, 2.0)
        await until(lambda: time.monotonic() >= moment, "the moment", seconds=5)  # noqa: B023
        node.kill()
        await node.ended()
        node = start(warm)
    await node.ready()
    await warm.drained(seconds=DRAIN)
    await until(lambda: only_waiting(warm), "what was killed is cleared", seconds=3 * CLEARED)
    node.signal(signal.SIGTERM)
    code = await node.ended(EXIT_OF_TERM)
    audit = await warm.audit()
    show(f"F1 warm {warm.kind}", seed=seed, runs=sum(audit.witness.runs.values()))

    assert code == 0
    assert audit.results == dict.fromkeys(bodies, 1)
    assert audit.dead == {}
    assert (audit.witness.repeats, audit.witness.unended, audit.witness.overlaps) == (0, 0, 0)
    assert audit.runs_left == audit.directories_left == audit.errors == ()
