"""The program as a person uses it: real processes, a real server, the process runtime."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]

PROGRAM = [
    sys.executable,
    "-c",
    "import sys; from scalebox_actors.cli import main; sys.exit(main())",
]
ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 30.0

TINY = """
topology: tiny
modules:
  split:
    image: none/needed:1
    command:
      - sh
      - -c
      - for i in 1 2 3; do echo "count,$1-$i"; done > sink-tasks.txt; echo hello
      - sh
    sinks: [count]
  count:
    image: none/needed:1
    command:
      - sh
      - -c
      - |
        case $1 in *bad*) [ -e FIXED ] || { echo one; echo no FIXED here; exit 3; };; esac
        echo "{\\"body\\": \\"r $1\\"}" > sink-tasks.jsonl
      - sh
    slots: 2
    retry: {}
  slow:
    image: none/needed:1
    command: [sh, -c, 'sleep 60', sh]
  stays:
    image: none/needed:1
    launch: resident
    command:
      - python3
      - -c
      - |
        import json, os, sys
        for line in sys.stdin:
            told = {"id": json.loads(line)["id"], "sink": [{"body": str(os.getpid())}]}
            print(json.dumps(told), flush=True)
"""

Sbx = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return an environment with a state directory of its own and the process runtime."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SBX_")}
    own = {"XDG_STATE_HOME": str(tmp_path / "state"), "SBX_RUNTIME": "process"}
    return kept | own | {"PYTHONPATH": str(ROOT), "TERM": "xterm"}


@pytest.fixture
def topology(tmp_path: Path) -> str:
    """Write the pipeline of these tests; a body with `bad` fails until FIXED is there."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.replace("FIXED", str(tmp_path / "fixed")))
    return str(path)


@pytest.fixture
def sbx(environment: dict[str, str]) -> Sbx:
    """Run the program to its end."""

    def call(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 - the program under test
            [*PROGRAM, *arguments],
            env=environment, input=stdin, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    return call


@contextmanager
def started(
    environment: dict[str, str], topology: str, log: Path
) -> Iterator[subprocess.Popen[str]]:
    """Start a node, and return it once it has said that it is ready."""
    with log.open("w") as file:
        command = [*PROGRAM, "node", topology, "--name", "n1", "--log-json"]
        process = subprocess.Popen(command, env=environment, stderr=file, text=True)  # noqa: S603 - the program under test
    until(lambda: "node_started" in log.read_text() or process.poll() is not None)
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def node(
    environment: dict[str, str], topology: str, tmp_path: Path
) -> Iterator[subprocess.Popen[str]]:
    """Return a node that has said that it is ready."""
    with started(environment, topology, tmp_path / "node.log") as process:
        yield process


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, and fail if it does not come true."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def records(text: str) -> list[dict[str, object]]:
    """Read lines of JSON."""
    return [json.loads(line) for line in text.splitlines()]


def test_run_prints_results_and_ends(sbx: Sbx, topology: str) -> None:
    """A pipeline of two modules runs to its end; stdout has its results and nothing else."""
    ended = sbx("run", topology, "--ephemeral", "--send", "split", "x")

    assert (
        ended.returncode,
        sorted(ended.stdout.split("\n"))[1:],
    ) == (0, ["r x-1", "r x-2", "r x-3"])
    assert "4 tasks done" in ended.stderr


def test_what_failed_is_told_and_can_be_retried(sbx: Sbx, topology: str, tmp_path: Path) -> None:
    """Exit code 1 and the reason; once the cause is mended, a retry gives the missing result."""
    failed = sbx("run", topology, "--send", "count", "bad")
    [letter] = records(sbx("dead", "list", "tiny", "--json").stdout)
    shown = sbx("dead", "show", "tiny", str(letter["id"]))
    (tmp_path / "fixed").touch()
    retried = sbx("dead", "retry", "tiny", "x1", str(letter["id"]), "x2", "--json")
    again = sbx("run", topology)
    after = sbx("dead", "list", "tiny")
    [trace] = [
        record
        for record in records(sbx("trace", "tiny", "--json").stdout)
        if record["verdict"] == "done"
    ]

    assert (failed.returncode, letter["reason"]) == (1, "no_rule")
    assert f"exit code 3: no {tmp_path}/fixed here" in failed.stderr
    assert f"log:\n  one\n  no {tmp_path}/fixed here\n" in shown.stdout
    assert (retried.returncode, "no dead letter x1, x2" in retried.stderr) == (1, True)
    assert (again.returncode, again.stdout) == (0, "r bad\n")
    assert after.stdout == ""
    assert [r["new_id"] for r in records(retried.stdout)] == [trace["id"]]
    assert trace["parent"] == letter["id"]


def test_looking_at_what_was_done(sbx: Sbx, topology: str) -> None:
    """After a run, results, trace, logs and status tell of it, by the topology's name."""
    sbx("run", topology, "--send", "split", "x")
    results = sbx("results", "tiny")
    trace = sbx("trace", "tiny")
    [top] = re.findall(r"^split  (\S+)", trace.stdout, re.MULTILINE)
    logs = sbx("logs", "tiny", top)
    state = records(sbx("status", "tiny", "--json").stdout)[0]
    first = sbx("results", "tiny", "--take", "--limit", "1")
    taken = sbx("results", "tiny", "--take", "--json")

    assert first.stdout.splitlines() == results.stdout.splitlines()[:1]
    assert len(records(taken.stdout)) == 2
    assert sorted(results.stdout.splitlines()) == ["r x-1", "r x-2", "r x-3"]
    assert len(trace.stdout.splitlines()) == 4
    assert "out| hello" in logs.stdout
    assert '"results":3' in json.dumps(state, separators=(",", ":"))
    assert {record["root"] for record in records(taken.stdout)} == {top}
    assert sbx("results", "tiny").stdout == ""


def test_sending_lines_is_quick(
    sbx: Sbx, topology: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines go in atomic batches, each acknowledged and on disk; the rate is printed."""
    count = 50_000
    sent = sbx("send", topology, "count", "-", stdin="\n".join(map(str, range(count))))
    state = records(sbx("status", "tiny", "--json").stdout)[0]
    with capsys.disabled():
        print(f"\nsend: {sent.stderr.strip()}")  # noqa: T201 - a figure for whoever watches

    assert (sent.returncode, sent.stdout) == (0, "sent 50,000 messages to tiny/count\n")
    assert f'"waiting": {count}' in json.dumps(state)


def test_a_bad_line_is_named_and_those_before_it_are_sent(sbx: Sbx, topology: str) -> None:
    """The refusal says which line; what was sent before is told as well."""
    stdin = "a\nb\n" + "x" * 1_100_000 + "\nc\n"
    sent = sbx("send", topology, "count", "-", "--id", "again", stdin=stdin)
    repeated = sbx("send", "tiny", "count", "-", "--id", "again", stdin="a\nb\n")

    assert (sent.returncode, sent.stdout) == (65, "sent 2 messages to tiny/count\n")
    assert "standard input:3:" in sent.stderr
    assert "2 messages had been sent before" in repeated.stderr


def test_waiting_messages_can_be_cancelled(sbx: Sbx, topology: str) -> None:
    """A cancelled message is never run; one without that id is an error."""
    [told] = records(sbx("send", topology, "count", "x", "--json").stdout)
    cancelled = sbx("cancel", "tiny", str(told["id"]))
    twice = sbx("cancel", "tiny", str(told["id"]))
    ended = sbx("run", topology)

    assert (cancelled.returncode, cancelled.stdout) == (0, "1 message cancelled\n")
    assert twice.returncode == 1
    assert (ended.returncode, ended.stdout) == (0, "")


def test_a_node_ends_on_sigterm(sbx: Sbx, topology: str, node: subprocess.Popen[str]) -> None:
    """A service manager gets exit code 0, soon, though a run is still going on."""
    sbx("send", topology, "slow", "x")
    until(lambda: '"running":1' in sbx("status", "tiny", "--json").stdout)
    node.send_signal(signal.SIGTERM)

    assert node.wait(30) == 0


def test_pause_drain_and_cancel_reach_a_node(
    sbx: Sbx, topology: str, node: subprocess.Popen[str]
) -> None:
    """A paused module gets nothing, a cancelled run is ended, a drained node ends with 0."""
    sbx("pause", "tiny", "count", "--for", "1h")
    sbx("send", "tiny", "count", "x")
    sbx("send", topology, "slow", "y", "--id", "y")
    until(lambda: '"running":1' in sbx("status", "tiny", "--json").stdout)
    paused = sbx("status", "tiny").stdout
    cancelled = sbx("cancel", "tiny", "y")
    resumed = sbx("resume", "tiny", "count")
    until(lambda: sbx("results", "tiny").stdout == "r x\n")
    drained = sbx("drain", "tiny", "n1")

    assert re.search(r"count +1 .*paused", paused)
    assert (cancelled.returncode, resumed.returncode) == (0, 0)
    assert (drained.returncode, drained.stdout, drained.stderr) == (0, "n1: draining\n", "")
    assert node.wait(30) == 0


@pytest.mark.parametrize("command", ["node TOPOLOGY", "node tiny", "run TOPOLOGY"])
def test_a_second_node_of_a_name_is_refused(
    sbx: Sbx, topology: str, node: subprocess.Popen[str], command: str
) -> None:
    """It is told by whom and what to do; the first one keeps its programs and goes on."""
    sbx("send", topology, "stays", "x")
    until(lambda: sbx("results", "tiny").stdout != "")
    [before] = sbx("results", "tiny", "--take").stdout.split()
    refused = sbx(*command.replace("TOPOLOGY", topology).split(), "--name", "n1")
    sbx("send", topology, "stays", "y")
    until(lambda: sbx("results", "tiny").stdout != "")
    [after] = sbx("results", "tiny").stdout.split()

    assert (refused.returncode, refused.stdout) == (69, "")
    assert refused.stderr.startswith("sbx-actor: node n1 of topology tiny is at work already, ")
    assert f"as process {node.pid}, " in refused.stderr
    assert refused.stderr.endswith("; stop that one, or give this one another --name\n")
    assert node.poll() is None
    assert before == after


def test_a_run_with_another_name_helps_the_node(
    sbx: Sbx, topology: str, node: subprocess.Popen[str]
) -> None:
    """Two nodes of different names share a store; each keeps what is its own."""
    helped = sbx("run", topology, "--name", "n2", "--send", "split", "x")

    assert (helped.returncode, helped.stdout.count("r x-")) == (0, 3)
    assert node.poll() is None


def test_the_successor_of_a_killed_node_starts_at_once(
    sbx: Sbx,
    environment: dict[str, str],
    topology: str,
    node: subprocess.Popen[str],
    tmp_path: Path,
) -> None:
    """What the killed one had running goes on, and does not keep its name."""
    sbx("send", topology, "slow", "x", "--id", "x")
    until(lambda: '"running":1' in sbx("status", "tiny", "--json").stdout)
    node.kill()
    log = tmp_path / "successor.log"
    with started(environment, topology, log) as successor:
        assert successor.poll() is None, log.read_text()
        until(lambda: '"running":1' in sbx("status", "tiny", "--json").stdout)
        cancelled = sbx("cancel", "tiny", "x")

    assert cancelled.returncode == 0


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_ends_a_run_and_restores_the_terminal(
    environment: dict[str, str], topology: str, presses: int
) -> None:
    """The first Ctrl-C waits for what runs, the second stops it; the cursor is there again."""
    module, body = ("slow", "x") if presses == 2 else ("split", "x")
    command = [*PROGRAM, "run", topology, "--ephemeral", "--keep", "--send", module, body]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(command[0], command, environment)  # noqa: S606 - the program under test
    marks = [b"tasks/s", b"draining"][:presses]
    shown = b""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if select.select([terminal], [], [], 0.1)[0]:
                shown += os.read(terminal, 65_536)
        except OSError:  # the other side is gone
            break
        if marks and marks[0] in shown:
            marks.pop(0)
            os.write(terminal, b"\x03")
    _, status = os.waitpid(pid, 0)
    os.close(terminal)

    assert os.waitstatus_to_exitcode(status) == 130
    assert shown.count(b"\x1b[?25l") == shown.count(b"\x1b[?25h") == 1
    assert b"Traceback" not in shown


SHELL = [
    ("schema > /dev/full", 1, "No space left"),
    ("--help > /dev/full", 1, "No space left"),
    ("check $T > /dev/full", 1, "No space left"),
    ("schema >&-", 1, "standard output is closed"),
    ("send $T count - <&-", 65, "standard input is closed"),
    ("check /nowhere 2>&-", 65, ""),
    ("check /nowhere 2> /dev/full", 65, ""),
    ("send $T count x 2>&-", 0, ""),
    ("status tiny --nats nats://127.0.0.1:1", 69, "no nats-server answers"),
    ("run $T --store /dev/null/x", 1, "Not a directory"),
    ("send $T count --file /nowhere", 65, "No such file"),
    ("send $T count --file /dev", 65, "Is a directory"),
]


@pytest.mark.parametrize(("line", "code", "word"), SHELL, ids=[line for line, _, _ in SHELL])
def test_broken_streams_and_servers(
    line: str, code: int, word: str, environment: dict[str, str], topology: str
) -> None:
    """Whatever its streams are, the program says what it can and ends with the right code."""
    program = f"{PROGRAM[0]} -c '{PROGRAM[2]}'"
    ended = subprocess.run(  # noqa: S602 - redirections are the point
        f"{program} {line}",
        shell=True, env=environment | {"T": topology}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert code == ended.returncode
    assert word in ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout


def test_a_reader_that_leaves_is_no_error_to_speak_of(
    sbx: Sbx, environment: dict[str, str], topology: str
) -> None:
    """`results --follow | head -1` ends by itself and says nothing."""
    sbx("run", topology, "--send", "split", "x")
    program = f"{PROGRAM[0]} -c '{PROGRAM[2]}'"
    ended = subprocess.run(  # noqa: S602 - the pipe is the point
        f"({program} results tiny --follow; echo $? >&2) | head -1",
        shell=True, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert ended.stdout.startswith("r x-")
    assert ended.stderr == "141\n"
