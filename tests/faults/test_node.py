"""Faults of the node: killed, told to stop."""

import random
import signal
import time

from faults.process import EXIT_OF_TERM, until
from faults.stage import ACK_WAIT, Stage, show
from faults.workload import check, pipeline, topology

from scalebox_actors.runtimes.process import ProcessRuntime

KILLS = 5
RECOVERY = ACK_WAIT + 5.0
"""F1: seconds from the restart to the first task that ends."""
DRAIN = 40.0


async def test_a_node_killed_again_and_again_runs_nothing_twice(stage: Stage) -> None:
    """F1: a node that is killed at random moments adopts its runs and loses, doubles nothing."""
    seed = random.randrange(2**32)  # noqa: S311 - a seed, not a secret
    chance = random.Random(seed)  # noqa: S311 - moments, not secrets
    roots = [f"r{n}" for n in range(12)]
    await stage.deploy(topology("kill", pipeline(stage.witness)))
    await stage.send("split", roots)
    recoveries = []
    node = stage.node()
    for _ in range(KILLS):
        await node.ready()
        moment = time.monotonic() + chance.uniform(0.0, 1.5)
        await until(lambda: time.monotonic() >= moment, "the moment", seconds=5)  # noqa: B023
        node.kill()
        node = stage.node()
        recoveries.append(await stage.moved(seconds=RECOVERY))
    await stage.drained(seconds=DRAIN)
    audit = await stage.audit()
    show("F1", seed=seed, runs=sum(audit.witness.runs.values()), repeats=audit.witness.repeats,
         recovery=max(recoveries))  # fmt: skip

    check(audit, roots)
    assert audit.witness.repeats == 0
    assert audit.witness.unended == 0


async def test_a_node_killed_with_runs_in_line_runs_nothing_twice(stage: Stage) -> None:
    """F1: runs that wait for their turn begin without the node; the next one adopts them all."""
    roots = [f"r{n}" for n in range(12)]
    await stage.deploy(topology("line", pipeline(stage.witness, pause=0.0, slots=2)))
    await stage.send("split", roots)
    in_line = []
    for _ in range(KILLS):
        node = stage.node()
        await node.ready()
        in_line.append(await _in_line(stage))
        node.kill()
    stage.node()
    await stage.drained(seconds=DRAIN)
    audit = await stage.audit()
    show("F1", in_line=in_line, runs=sum(audit.witness.runs.values()),
         repeats=audit.witness.repeats)  # fmt: skip

    check(audit, roots)
    assert min(in_line) > 0
    assert audit.witness.repeats == 0
    assert audit.witness.unended == 0


async def test_a_node_that_is_told_to_stop_leaves_its_runs_to_the_next(stage: Stage) -> None:
    """F2: SIGTERM ends a node with 0; its successor adopts what runs and repeats nothing."""
    roots = [f"r{n}" for n in range(4)]
    await stage.deploy(topology("stop", pipeline(stage.witness, pause=0.5)))
    await stage.send("split", roots)
    node = stage.node()
    await node.ready()
    await until(lambda: _done(stage), "some tasks ended", seconds=20)
    node.signal(signal.SIGTERM)
    began = time.monotonic()
    code = await node.ended(EXIT_OF_TERM)
    took = time.monotonic() - began
    stage.node()
    await stage.drained(seconds=DRAIN)
    audit = await stage.audit()
    show("F2", code=code, stopped=took, repeats=audit.witness.repeats)

    check(audit, roots)
    assert code == 0
    assert audit.witness.repeats == 0
    assert audit.witness.unended == 0


async def _in_line(stage: Stage) -> int:
    """Wait until runs wait for their turn, and return how many."""
    counts = []
    async with stage.runtime() as runtime:
        assert isinstance(runtime, ProcessRuntime)
        ask = runtime.ask

        async def some_wait() -> bool:
            told = await ask({"do": "list", "labels": {}})
            counts.append(sum(run.waits for run in told.runs))
            return counts[-1] > 0

        await until(some_wait, "runs in line", seconds=20)
    return counts[-1]


async def _done(stage: Stage) -> bool:
    return await stage.done("calc") > 4
