"""Faults of programs that stay: their node is killed, they are, and messages kill them."""

import random
import signal
import time
from collections.abc import Mapping

import pytest
from faults.process import EXIT_OF_TERM, until
from faults.stage import ACK_WAIT, Stage, show
from faults.workload import PARTS, check, pipeline, topology

KILLS = 2
LONG_ACK_WAIT = 60.0
RECOVERY = ACK_WAIT + 8.0
DRAIN = 60.0
IN_FLIGHT = 3
SLOTS = 2

READY = f'{{"ready":true,"in_flight":{IN_FLIGHT}}}'
CALC = (
    f"echo '{READY}'"
    """
while IFS= read -r line; do
  id=${line#*'"id":"'}; id=${id%%'"'*}
  body=${line#*'"body":"'}; body=${body%%'"'*}
  read -r run </proc/sys/kernel/random/uuid
  printf '%s %s %s %s\\n' start calc "$id" "$run" >>"$WITNESS"
  case $body in poison*) exit 7;; hang*) sleep 1000;; esac
  sleep "$PAUSE"
  printf '%s %s %s %s\\n' stop calc "$id" "$run" >>"$WITNESS"
  printf '{"id":"%s","sink":[{"body":"%s"}]}\\n' "$id" "$body"
done
"""
)

patient = pytest.mark.timeout(150)
"""Nodes take their time to start, where many things do at once."""


def modules(stage: Stage, *, pause: float = 0.05, **calc: object) -> dict[str, object]:
    """Return the workload with a `calc` that stays."""
    made = pipeline(stage.witness, pause=pause)
    old = made["calc"]
    assert isinstance(old, Mapping)
    script = CALC.replace("${", "$${")  # in a topology, `${` begins a parameter
    stays = {"command": ["sh", "-c", script], "launch": "resident", "slots": SLOTS}
    return {**made, "calc": {**old, **stays, **calc}}


@patient
async def test_a_node_killed_again_and_again_doubles_no_effect(stage: Stage) -> None:
    """A node that is killed takes its programs with it; messages run again, effects happen once."""
    seed = random.randrange(2**32)  # noqa: S311 - a seed, not a secret
    chance = random.Random(seed)  # noqa: S311 - moments, not secrets
    roots = [f"r{n}" for n in range(3)]
    await stage.deploy(topology("reskill", modules(stage)))
    await stage.send("split", roots)
    node = stage.node()
    for _ in range(KILLS):
        await node.ready()
        await stage.moved(seconds=RECOVERY)
        moment = time.monotonic() + chance.uniform(0.0, 0.5)
        await until(lambda: time.monotonic() >= moment, "the moment", seconds=5)  # noqa: B023
        node.kill()
        node = stage.node()
    await node.ready()  # everything may be done by now, and a signal kill one that is not up yet
    await stage.drained(seconds=DRAIN)

    async def reaped() -> bool:
        return all(".resident-" in run for run in (*await stage.strays(), *stage.directories()))

    # What other modules left when their node was killed is removed soon after a start.
    await until(reaped, "other runs are cleared", seconds=20)
    node.signal(signal.SIGTERM)
    code = await node.ended(EXIT_OF_TERM)
    audit = await stage.audit()
    show("F1 resident", seed=seed, repeats=audit.witness.repeats, unended=audit.witness.unended)

    check(audit, roots, killed=audit.witness.unended)
    assert code == 0
    # What a program had when its node was killed, and no more, ran again.
    assert audit.witness.repeats <= KILLS * SLOTS * IN_FLIGHT + KILLS * SLOTS


@patient
async def test_a_node_that_is_told_to_stop_gives_its_messages_back(stage: Stage) -> None:
    """What its programs did not answer is the next node's at once, and no two have it at a time."""
    roots = ["r0"]
    await stage.deploy(topology("restop", modules(stage, pause=2.0)), ack_wait=LONG_ACK_WAIT)
    await stage.send("split", roots)
    node = stage.node()
    await until(lambda: stage.started("calc") == SLOTS, "programs are at work", seconds=20)
    node.signal(signal.SIGTERM)
    code = await node.ended(EXIT_OF_TERM)
    successor = stage.node("n2")
    took = await stage.drained(seconds=LONG_ACK_WAIT * 0.8)
    successor.signal(signal.SIGTERM)
    await successor.ended(EXIT_OF_TERM)
    audit = await stage.audit()
    show("restop", took=took, repeats=audit.witness.repeats, unended=audit.witness.unended)

    check(audit, roots, killed=audit.witness.unended)
    assert code == 0
    assert audit.witness.unended > 0


@patient
async def test_neighbours_of_poison_are_not_buried(stage: Stage) -> None:
    """Messages that kill their program, or hang in it, are set aside; all others are done."""
    roots = ["r0", "r1"]
    await stage.deploy(topology("respoison", modules(stage, pause=0.01, timeout=2)))
    bad = ["poison1", "poison2", "hang1"]
    await stage.send("calc", bad)
    await stage.send("split", roots)
    node = stage.node()
    await stage.drained(seconds=DRAIN)
    node.signal(signal.SIGTERM)
    await node.ended(EXIT_OF_TERM)
    audit = await stage.audit()
    show("poison", repeats=audit.witness.repeats, starts=stage.started("calc"))

    check(audit, roots, dead=[f"calc/{one}" for one in bad], killed=audit.witness.unended)
    assert len(audit.results) == len(roots) * PARTS


@patient
async def test_programs_that_are_removed_from_outside(stage: Stage) -> None:
    """Whoever removes the containers of programs costs time, and no message its end."""
    roots = ["r0", "r1"]
    await stage.deploy(topology("resgone", modules(stage)))
    await stage.send("split", roots)
    node = stage.node()
    await node.ready()
    removed = 0
    async with stage.runtime() as runtime:
        for _ in range(KILLS):
            await stage.moved(seconds=RECOVERY)
            labels = {"sbx.topology": stage.names.topology, "sbx.role": "resident"}
            for stray in await runtime.stray(labels):
                await runtime.remove(stray.name)
                removed += 1
    await stage.drained(seconds=DRAIN)
    node.signal(signal.SIGTERM)
    await node.ended(EXIT_OF_TERM)
    audit = await stage.audit()
    show("removed", removed=removed, repeats=audit.witness.repeats)

    check(audit, roots, killed=audit.witness.unended)
    assert removed > 0
