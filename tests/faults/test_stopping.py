"""A node that is told to stop: what would end with it is the next node's at once.

Containers of their own are adopted (test_node), and resident programs have tests of their own.
"""

import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from faults.process import EXIT_OF_TERM, until
from faults.stage import Stage, show
from faults.workload import check, pipeline, topology

LONG_ACK_WAIT = 60.0
AT_ONCE = 0.8 * LONG_ACK_WAIT
"""What waits for its `ack_wait` takes longer; the work itself takes 20 s."""
PAUSE = 2.0
SLOTS = 2
ROOTS = ("r0",)
Workload = Callable[[Stage], dict[str, object]]

FUNCTIONS = """
import asyncio, uuid

PAUSE = {pause}

def stamp(what, message, run):
    with open({witness!r}, "a") as file:
        print(what, message.module, message.id, run, file=file)

async def calc(message):
    run = uuid.uuid4()
    stamp("start", message, run)
    await asyncio.sleep(PAUSE)
    stamp("stop", message, run)
    return message.body
"""


def slots(stage: Stage) -> dict[str, object]:
    """Return the workload with a `calc` whose programs run in containers that stay."""
    return _with_calc(stage, launch="slot", slots=SLOTS)


def functions(stage: Stage) -> dict[str, object]:
    """Return the workload with a `calc` that is a function."""
    text = FUNCTIONS.format(pause=PAUSE, witness=str(stage.witness))
    Path(stage.folder, "slow.py").write_text(text, "utf-8")
    made = _with_calc(stage)
    made["calc"] = {"function": "slow:calc", "sinks": ["merge"], "slots": SLOTS}
    return made


@pytest.mark.timeout(150)
@pytest.mark.parametrize("workload", [slots, functions])
async def test_what_would_end_with_a_node_is_given_back(stage: Stage, workload: Workload) -> None:
    """Its messages come to the next node long before `ack_wait`, and never run twice at a time."""
    text = topology("stopping", workload(stage))
    file = stage.folder / "stopping.yaml"
    file.write_bytes(text)
    await stage.deploy(text, ack_wait=LONG_ACK_WAIT)
    await stage.send("split", ROOTS)
    node = stage.node(topology=str(file))
    await until(lambda: stage.started("calc") == SLOTS, "both slots are at work", seconds=30)
    node.signal(signal.SIGTERM)
    code = await node.ended(EXIT_OF_TERM)
    successor = stage.node("n2", topology=str(file))
    took = await stage.drained(seconds=AT_ONCE)
    successor.signal(signal.SIGTERM)
    await successor.ended(EXIT_OF_TERM)
    audit = await stage.audit()
    show("stopping", took=took, repeats=audit.witness.repeats)

    check(audit, ROOTS, killed=audit.witness.unended)
    assert code == 0
    assert audit.witness.unended > 0


def _with_calc(stage: Stage, **calc: object) -> dict[str, object]:
    made = pipeline(stage.witness, pause=PAUSE)
    old = made["calc"]
    assert isinstance(old, Mapping)
    return {**made, "calc": {**old, **calc}}
