"""Faults of tasks: programs that fail, hang, flood or write what nobody can use."""

import subprocess
import time
from pathlib import Path

import pytest
from faults.process import PACKAGE_ROOT, PROGRAM, until
from faults.stage import Stage, show
from faults.workload import STAMP, check, pipeline, read_witness, shell, topology

from scalebox_actors.limits import CONTAINER_LOG_BYTES, FAILING_RUNS, MIB, OUTPUT_TEXT_BYTES
from scalebox_actors.ports import Broker, Entry

GOOD_SHARE, TURNS = 0.8, 3
"""Of its rate that good work keeps beside poison, at least in one of so many turns."""
DRAIN = 40.0
TIMEOUT = 1.0
TIMEOUT_AND_GRACE = TIMEOUT + 12.0
"""F16: seconds within which a run that ignores SIGTERM has ended."""
FLOOD = 256 * MIB
NODE_GROWTH = 50 * MIB
"""F20 and F27: what a node may grow by."""
BAD_OUTPUT = "bad_output"


def one(stage: Stage, script: str, **more: object) -> bytes:
    """Return a topology of one module that stamps its runs and executes a script."""
    module = {
        "image": "none",
        "command": shell(STAMP + script),
        "env": {"WITNESS": str(stage.witness)},
        "slots": 4,
        **more,
    }
    return topology("one", {"one": module})


async def test_a_program_that_hangs_is_ended_at_its_timeout(stage: Stage) -> None:
    """F16: a program that ignores SIGTERM is dead 12 s after its timeout, with code 124."""
    await stage.deploy(one(stage, "trap '' TERM\nwhile :; do sleep 1; done\n", timeout=TIMEOUT,
                           retry={"124": 0}))  # fmt: skip
    await stage.send("one", ["hang"])
    await stage.node().ready()
    took = await stage.drained(seconds=TIMEOUT_AND_GRACE)
    audit = await stage.audit()
    show("F16", ended_after=took)

    assert audit.dead == {"one/hang": "no_rule"}
    assert sum(audit.witness.runs.values()) == 1
    assert (await stage.record("one", "hang"))["exit_code"] == 124
    assert audit.runs_left == audit.directories_left == ()


RULES = ["92:3", "137:2", "*:1"]
RUNS_OF_CODES = {
    0: 1, 1: 2, 91: 2, 92: 4, **dict.fromkeys(range(110, 125), 2), 137: 3, 139: 2, 143: 2, 255: 2,
}  # fmt: skip


async def test_every_exit_code_is_run_as_often_as_its_rule_says(stage: Stage) -> None:
    """F17: runs per exit code are those of the retry rules, then a dead letter or success."""
    await stage.deploy(one(stage, 'exit "$1"\n', retry=RULES))
    await stage.send("one", [str(code) for code in RUNS_OF_CODES])
    await stage.node().ready()
    await stage.drained(seconds=DRAIN)
    audit = await stage.audit()
    show("F17", codes=len(RUNS_OF_CODES), runs=sum(audit.witness.runs.values()))

    assert {int(task): n for (_, task), n in audit.witness.runs.items()} == RUNS_OF_CODES
    assert set(audit.dead) == {f"one/{code}" for code in RUNS_OF_CODES if code}
    for code in RUNS_OF_CODES:
        assert (await stage.record("one", str(code))).get("exit_code", 0) == code


SIGNALS = {"KILL": 137, "SEGV": 139, "TERM": 143}


async def test_a_program_that_dies_of_a_signal_has_failed(stage: Stage) -> None:
    """F17: a program killed by its own signal has failed with 128 + n and is tried again."""
    await stage.deploy(one(stage, 'trap - EXIT\nkill -s "$1" $$$$\n', retry=["*:1"]))
    await stage.send("one", SIGNALS)
    await stage.node().ready()
    await stage.drained(seconds=DRAIN)
    audit = await stage.audit()
    show("F17 signals", runs=dict(audit.witness.runs))

    assert {task: n for (_, task), n in audit.witness.runs.items()} == dict.fromkeys(SIGNALS, 2)
    for name, code in SIGNALS.items():
        assert (await stage.record("one", name))["exit_code"] == code


def test_the_worked_example_of_retry_rules_makes_ten_runs(tmp_path: Path) -> None:
    """F17: bodies 0 to 3 under `1:3, 2:2, *` make 10 runs, through the command line."""
    witness = tmp_path / "witness"
    module = {
        "image": "none",
        "command": shell(STAMP + 'exit "$1"\n'),
        "env": {"WITNESS": str(witness)},
        "retry": "['1:3','2:2','*']",
    }
    file = tmp_path / "rules.yaml"
    file.write_bytes(topology("rules", {"one": module}))
    sends = [word for body in "0123" for word in ("--send", "one", body)]
    command = [*PROGRAM, "run", str(file), "--runtime", "process", "--store", str(tmp_path / "s")]
    ended = subprocess.run(  # noqa: S603 - our own program
        [*command, *sends],
        capture_output=True,
        check=False,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(PACKAGE_ROOT), "HOME": str(tmp_path)},
        text=True,
    )
    runs = sorted(read_witness(witness).runs.values())

    assert ended.returncode == 1, ended.stderr
    assert runs == [1, 2, 3, 4]


async def test_poison_among_good_messages_stops_none_of_them(stage: Stage) -> None:
    """F24: a task that always fails costs three runs; its 200 neighbours are all done."""
    roots = [f"r{n}" for n in range(10)]
    modules = pipeline(stage.witness, pause=0.02)
    await stage.deploy(topology("poison", modules))
    node = stage.node()
    await node.ready()

    async def took(names: list[str]) -> float:
        began = time.monotonic()
        await stage.send("split", names)
        await stage.drained(seconds=DRAIN)
        return time.monotonic() - began

    sent, poison, shares = list(roots), list[str](), []
    clean = await took(roots)
    for turn in range(TURNS):  # the machine may be busier in one of them
        bad = [f"poison{turn}x{n}" for n in range(5)]
        beside, alone = ([f"{word}{turn}x{n}" for n in range(10)] for word in "st")
        await stage.send("calc", bad)
        poisoned = await took(beside)
        before, clean = clean, await took(alone)
        shares.append(max(before, clean) / poisoned)
        sent, poison = [*sent, *beside, *alone], [*poison, *bad]
        if shares[-1] >= GOOD_SHARE:
            break
    audit = await stage.audit()
    runs = [audit.witness.runs["calc", bad] for bad in poison]
    show("F24", shares=shares, runs=runs)

    check(audit, sent, dead=[f"calc/{bad}" for bad in poison])
    assert runs == [FAILING_RUNS] * len(poison)
    assert shares[-1] >= GOOD_SHARE


async def test_a_flood_of_output_is_bounded_everywhere(stage: Stage) -> None:
    """F20: 256 MB on stdout leave a bounded log on disk, a bounded text and a small node."""
    await stage.deploy(one(stage, f"yes | head -c {FLOOD}\n"))
    node = stage.node()
    await node.ready()
    before = node.memory()
    await stage.send("one", ["flood"])
    largest = 0
    while not await stage.done():
        largest = max(largest, stage.logs_on_disk())
    await stage.drained(seconds=DRAIN)
    audit = await stage.audit()
    growth = node.memory() - before
    show("F20", log_on_disk=largest, growth=growth)

    assert audit.done == {"one": 1}
    assert 0 < largest <= CONTAINER_LOG_BYTES + MIB
    assert growth < NODE_GROWTH
    assert audit.runs_left == audit.directories_left == audit.errors == ()
    await until(lambda: _traced(stage, "flood"), "the run's record", seconds=5)
    assert len(str((await stage.traces())["flood"]["stdout"])) <= OUTPUT_TEXT_BYTES


OUT = '"$WORK_DIR/sink-tasks.txt"'
NOBODY = '{"module":"nobody","body":"x"}'
OUTPUTS = {
    "full": (f"seq 999 >{OUT}", 999),
    "over": (f"seq 1000 >{OUT}", None),
    "million": (f"seq 1000000 >{OUT}", None),
    "unknown": (f"echo '{NOBODY}' >\"$WORK_DIR/sink-tasks.jsonl\"", None),
    "symlink": (f"ln -s /etc/passwd {OUT}", None),
    "fifo": (f"mkfifo {OUT}", None),
    "directory": (f"mkdir {OUT}", None),
    "sparse": (f"truncate -s 1T {OUT}", None),
    "long": (f"head -c 1040000 /dev/zero | tr '\\0' x >{OUT}", None),
    "closed": (f"echo x >{OUT}; chmod 000 {OUT}", 1),
}  # fmt: skip
"""Name to what the program writes and how many children it makes; None: it is bad output."""


async def test_bad_output_is_buried_and_nothing_of_it_is_sent(stage: Stage) -> None:
    """F27: 999 outputs are stored; every unusable output is buried whole, at no cost of memory."""
    cases = "\n".join(f"{name}) {script} ;;" for name, (script, _) in OUTPUTS.items())
    await stage.deploy(one(stage, f"case $1 in\n{cases}\nesac\n"))
    node = stage.node()
    await node.ready()
    before = node.memory()
    await stage.send("one", OUTPUTS)
    await stage.drained(seconds=DRAIN)
    audit = await stage.audit()
    growth = node.memory() - before
    bad = {f"one/{name}": BAD_OUTPUT for name, (_, count) in OUTPUTS.items() if count is None}
    good = sum(count for _, count in OUTPUTS.values() if count)
    show("F27", cases=len(OUTPUTS), stored=sum(audit.results.values()), growth=growth)

    assert audit.dead == bad
    assert sum(audit.results.values()) == good
    assert growth < NODE_GROWTH
    assert audit.witness.repeats == 0
    assert audit.runs_left == audit.directories_left == audit.errors == ()


async def test_one_id_is_one_effect_however_often_it_is_published(stage: Stage) -> None:
    """F28: a message published again, at once or when it is done, has its effects once."""
    await stage.deploy(topology("twice", pipeline(stage.witness)))
    broker = await stage.broker()
    await stage.send("split", ["r0"])
    at_once = await broker.inject([_again(stage, "r0")])
    node = stage.node()
    await node.ready()
    await stage.drained(seconds=DRAIN)
    await stage.forget_ids()  # as half a minute later, or after a restart of the server
    for _ in range(3):
        # A busy server looks late at how long its window is now; the old one was half a minute.
        await until(lambda: _taken(broker, stage), "the window of ids is over", seconds=35)
        await stage.drained(seconds=DRAIN)
    audit = await stage.audit()
    show("F28", duplicates=at_once.duplicates, repeats=audit.witness.repeats)

    assert at_once.duplicates == 1
    check(audit, ["r0"])
    assert audit.witness.repeats == 0


async def test_messages_without_an_id_are_one_task_each(stage: Stage) -> None:
    """F28: two publishes without an id are two tasks, with two names of their own."""
    await stage.deploy(one(stage, "", retry={"*": 0}))
    broker = await stage.broker()
    for _ in range(2):
        assert await broker.write([Entry(subject=stage.names.task("one"), body=b"same")]) is None
    await stage.node().ready()
    await stage.drained(seconds=DRAIN)
    audit = await stage.audit()

    assert audit.done == {"one": 2}
    assert sorted(audit.witness.runs.values()) == [1, 1]


@pytest.mark.parametrize("count", [0, 1])
async def test_a_child_that_is_there_does_not_hold_back_its_parents(
    stage: Stage, count: int
) -> None:
    """F28: two parents whose outputs have one id are both done, and the child is done once."""
    modules = pipeline(stage.witness, pause=0.02)
    modules["merge"] = {**modules["merge"], "identity": "body"}  # type: ignore[dict-item]
    await stage.deploy(topology("shared", modules))
    await stage.node().ready()
    await stage.send("calc", ["same"])
    broker = await stage.broker()
    if count:
        await stage.drained(seconds=DRAIN)
    other = Entry(subject=stage.names.task("calc"), body=b"same", headers={"Nats-Msg-Id": "twin"})
    assert await broker.write([other]) is None
    await stage.drained(seconds=DRAIN)
    audit = await stage.audit()

    assert audit.done == {"calc": 2, "merge": 1}
    assert audit.results == {"same": 1}
    assert audit.dead == {}


def _again(stage: Stage, body: str) -> Entry:
    subject = stage.names.task("split")
    return Entry(subject=subject, body=body.encode(), headers={"Nats-Msg-Id": body})


async def _taken(broker: Broker, stage: Stage) -> bool:
    return await broker.write([_again(stage, "r0")]) is None


async def _traced(stage: Stage, task: str) -> bool:
    return task in await stage.traces()
