"""The workload of the fault tests, and the checker that says whether a promise was broken.

`split` makes 20 parts of a message, `calc` works on each, `merge` emits each as a result. Every
body is unique, so the whole result is known before anything starts. Each run stamps its start
and its end into one file by a single O_APPEND write: a witness outside JetStream of what really
ran, in the order in which it happened.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

PARTS = 20

STAMP = """read -r run </proc/sys/kernel/random/uuid
stamp() { printf '%s %s %s %s\\n' "$1" "$MODULE_NAME" "$TASK_ID" "$run" >>"$WITNESS"; }
stamp start
trap 'stamp stop' EXIT
"""
"""First lines of every program: what it does after them lies between its two stamps."""

SPLIT = (
    STAMP
    + f"""i=1
while [ $i -le {PARTS} ]; do echo "$1.$i"; i=$((i + 1)); done >"$WORK_DIR/sink-tasks.txt"
"""
)
CALC = (
    STAMP
    + """case $1 in poison*) exit 7 ;; esac
sleep "$PAUSE"
echo "$1" >"$WORK_DIR/sink-tasks.txt"
"""
)
MERGE = (
    STAMP
    + """echo "$1" >"$WORK_DIR/sink-tasks.txt"
"""
)


def shell(script: str) -> list[str]:
    """Return the command that executes a script with body and headers as its arguments."""
    return ["sh", "-c", script, "sh"]


def pipeline(
    witness: Path | str, *, pause: float = 0.1, slots: int = 4, extra: Mapping[str, object] = {}
) -> dict[str, object]:
    """Return the modules of the workload; `extra` is added to each of them."""
    env = {"WITNESS": str(witness), "PAUSE": str(pause)}
    common = {"image": "none", **extra, "env": env}
    return {
        "split": {**common, "command": shell(SPLIT), "sinks": ["calc"]},
        "calc": {**common, "command": shell(CALC), "sinks": ["merge"], "slots": slots},
        "merge": {**common, "command": shell(MERGE), "slots": 2},
    }


def topology(name: str, modules: Mapping[str, object], **more: object) -> bytes:
    """Return a topology file; JSON is YAML."""
    return msgspec.json.encode({"topology": name, "modules": modules, **more})


def expected_results(roots: Iterable[str]) -> set[str]:
    """Return every result that the workload makes of these bodies."""
    return {f"{root}.{part}" for root in roots for part in range(1, PARTS + 1)}


class Witness(msgspec.Struct, frozen=True, kw_only=True):
    """What the witness file says, task by task."""

    runs: Mapping[tuple[str, str], int]
    """Module and task id to the number of times that its program was started."""
    overlaps: int
    """Starts of a task while an earlier run of it had not stamped its end."""
    unended: int
    """Runs that never stamped their end: killed ones."""

    @property
    def repeats(self) -> int:
        """Runs beyond the first of each task."""
        return sum(self.runs.values()) - len(self.runs)


def read_witness(path: Path) -> Witness:
    """Read the witness file."""
    runs: Counter[tuple[str, str]] = Counter()
    open_runs: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    overlaps = 0
    for line in path.read_text("ascii").splitlines() if path.exists() else ():
        what, module, task, run = line.split(" ")
        key = (module, task)
        if what == "start":
            runs[key] += 1
            overlaps += bool(open_runs[key])
            open_runs[key].add(run)
        else:
            open_runs[key].discard(run)
    return Witness(runs=runs, overlaps=overlaps, unended=sum(map(len, open_runs.values())))


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """What is stored after a test, and what was left on the host."""

    results: Mapping[str, int]
    """Body to how often it was emitted."""
    done: Mapping[str, int]
    """Module to the number of done-records, dead ones among them."""
    doubled_records: int
    dead: Mapping[str, str]
    """`module/id` to the reason of its dead letter."""
    waiting: Mapping[str, int]
    witness: Witness
    runs_left: tuple[str, ...]
    directories_left: tuple[str, ...]
    errors: tuple[str, ...]
    """Events of level ERROR in the nodes' logs."""

    @property
    def doubled(self) -> int:
        """Results beyond the first of their body, and records beyond one of their task."""
        extra = sum(self.results.values()) - len(self.results)
        return extra + self.doubled_records

    def lost(self, roots: Iterable[str]) -> set[str]:
        """Return what should have been emitted and was not."""
        return expected_results(roots) - set(self.results)


def check(audit: Audit, roots: Iterable[str], *, dead: Iterable[str] = (), killed: int = 0) -> None:
    """Assert the invariants that hold after every fault: I1, I2, I4, I5 and I8.

    A run that was `killed` has no second stamp, and may seem to overlap the one after it.
    """
    wanted = list(roots)
    assert audit.lost(wanted) == set(), "I1: accepted and never done"
    assert set(audit.results) <= expected_results(wanted), "I2: results that nobody asked for"
    assert audit.doubled == 0, "I2: effects happened twice"
    assert sorted(audit.dead) == sorted(dead), "I1: dead letters are not those that were expected"
    assert {m: n for m, n in audit.waiting.items() if n} == {}, "I1: messages still wait"
    assert audit.witness.overlaps <= killed, "I4: two runs of one task at one time"
    assert audit.runs_left == (), "I5: containers were left"
    assert audit.directories_left == (), "I5: work directories were left"
    assert audit.errors == (), "I8: errors that nobody expected"
