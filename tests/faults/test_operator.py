"""Faults that operators make: a topology that forgets modules, a program that is not there."""

from faults.process import until
from faults.stage import Stage, show
from faults.workload import STAMP, check, pipeline, read_witness, topology

BAD_INPUT = 65
DRAIN = 40.0
SUSPENSIONS = 3
"""F33: so often the module is tried and suspended again before its program is there."""


async def test_a_topology_that_forgets_waiting_modules_is_refused(stage: Stage) -> None:
    """F36: a node refuses a file without a module that messages wait for, and names it."""
    modules = pipeline(stage.witness)
    await stage.deploy(topology("edited", modules))
    await stage.send("calc", ["a", "b", "c"])
    edited = stage.folder / "edited.yaml"
    edited.write_bytes(topology("edited", {"merge": modules["merge"]}))
    node = stage.node(topology=str(edited))
    code = await node.ended(seconds=20)
    told = node.log.read_text("utf-8")
    waiting = (await stage.waiting())["calc"]
    stage.node("n2")
    await stage.drained(seconds=DRAIN)

    assert code == BAD_INPUT
    assert "calc (3 waiting)" in told
    assert waiting == 3
    assert sorted(await stage.results()) == ["a", "b", "c"]


async def test_a_module_whose_program_is_missing_waits_for_it(stage: Stage) -> None:
    """F33: a missing program suspends its module and buries nothing; once there, all is done."""
    program = stage.folder / "program"
    modules = pipeline(stage.witness, pause=0.02)
    lost = {**modules["calc"], "command": [str(program)], "sinks": ["merge"]}  # type: ignore[dict-item]
    await stage.deploy(topology("missing", {**modules, "calc": lost}))
    roots = ["r0", "r1"]
    node = stage.node()
    await node.ready()
    await stage.send("split", roots)
    await until(
        lambda: len(node.events("module_suspended")) >= SUSPENSIONS, "refused again", seconds=20
    )
    dead = await stage.dead()
    ran = sum(module == "calc" for module, _ in read_witness(stage.witness).runs)
    program.write_text("#!/bin/sh\n" + STAMP + 'echo "$1" >"$WORK_DIR/sink-tasks.txt"\n')
    program.chmod(0o755)
    await stage.drained(seconds=DRAIN)
    audit = await stage.audit(expected_errors=["module_suspended"])
    show("F33", dead=len(dead), ran=ran)

    assert dead == {}
    assert ran == 0
    check(audit, roots)
    assert audit.witness.repeats == 0
