"""The gate of a warm container: real shells read what a message says, and it stays what it is."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalebox_actors.launch import gate
from scalebox_actors.limits import WARM_ARGUMENT_BYTES
from scalebox_actors.ports import Exit, Logs

SHELLS = [
    words
    for words in (["/bin/sh"], ["bash", "--posix"], ["busybox", "sh"])
    if shutil.which(words[0])
]
SHOW = (
    "import json, os, sys; "
    "json.dump([[a.encode('utf-8', 'surrogateescape').hex() for a in sys.argv[1:]], "
    "{k.hex(): v.hex() for k, v in os.environb.items()}, os.getcwd(), "
    "sorted(os.listdir('/proc/self/fd'))], sys.stdout)"
)
"""A program that tells how it was executed."""

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60)
nasty = texts | st.sampled_from(
    ["", "'", "''", "\\", "\n", "$(id)", "`id`", "${X}", "-n", "a'b\\'c\n$", "\x81\x82\x88", "é\r"]
)


class Gate:
    """A door with the gate's script, between a shell and a program."""

    def __init__(self, folder: Path, shell: list[str]) -> None:
        self.folder, self._shell = folder, shell
        self.work = folder / "it's a work"
        self.work.mkdir()
        (folder / gate.SCRIPT_NAME).write_bytes(gate.SCRIPT)
        for name in ("in", "out"):
            os.mkfifo(folder / name)

    def start(self, *program: str, env: dict[str, str]) -> "subprocess.Popen[bytes]":
        """Start the gate before a program; returns when it has said something."""
        self.to = os.open(self.folder / "in", os.O_RDWR)
        out = os.open(self.folder / "out", os.O_RDWR)
        process = subprocess.Popen(  # noqa: S603 - our own script
            [*self._shell, str(self.folder / gate.SCRIPT_NAME), *program, gate.LAST_WORD],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.said = os.read(out, 100)
        os.close(out)
        return process

    def ends(self, process: "subprocess.Popen[bytes]", word: bytes) -> tuple[int, bytes, bytes]:
        """Say a word, or hang up, and return how the gate ended and what it printed."""
        os.write(self.to, word)
        os.close(self.to)
        stdout, stderr = process.communicate(timeout=20)
        return process.returncode, stdout, stderr


@pytest.mark.timeout(120)
@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_what_a_message_says_arrives_to_the_byte(shell: list[str]) -> None:
    """Arguments, variables and directory are those of a program that was executed directly."""

    @settings(max_examples=10, deadline=None)
    @given(st.lists(nasty, max_size=4), nasty, nasty)
    def check(arguments: list[str], old: str, new: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            door = Gate(Path(folder), shell)
            known = {"STAYS": old, "CHANGES": old, "GOES": "x", "PATH": os.environ["PATH"]}
            env = {"STAYS": old, "CHANGES": new, "COMES": new, "PATH": os.environ["PATH"]}
            process = door.start(sys.executable, "-ES", "-c", SHOW, "it's", env=known)
            text = gate.opening(arguments, env, known, str(door.work))
            (door.folder / "run").write_bytes(text)
            code, stdout, stderr = door.ends(process, gate.GO)

            assert (door.said, code, stderr) == (b"ready\n", 0, b"")
            told, seen, place, descriptors = json.loads(stdout)
            assert [bytes.fromhex(word).decode() for word in told] == ["it's", *arguments]
            variables = {
                bytes.fromhex(name).decode(): bytes.fromhex(value).decode()
                for name, value in seen.items()
            }
            for shells_own in ("_", "SHLVL", "LC_CTYPE"):  # bash, bash, and Python itself
                variables.pop(shells_own, None)
            assert variables == env
            assert place == str(door.work)
            assert descriptors == ["0", "1", "2", "3"]

    check()


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
@pytest.mark.parametrize("word", [b"", b"g", b"go", b"no\n", b"go go\n"])
def test_a_gate_opens_for_one_word_only(tmp_path: Path, shell: list[str], word: bytes) -> None:
    """Whatever else comes, or half of it, is the end: nothing was run, and it says so."""
    door = Gate(tmp_path, shell)
    process = door.start("/bin/echo", "ran", env=dict(os.environ))
    (tmp_path / "run").write_bytes(gate.opening([], {}, {}, str(door.work)))
    code, stdout, stderr = door.ends(process, word)

    logs = Logs(stdout=stdout, stderr=stderr, stdout_size=len(stdout), stderr_size=len(stderr))
    assert gate.never_opened(Exit(code=code), logs)


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
@pytest.mark.parametrize("program", ["/absent/program", "absent-program", "/etc", "/etc/passwd"])
def test_a_program_that_cannot_be_executed_is_told_beforehand(
    tmp_path: Path, shell: list[str], program: str
) -> None:
    """No message is given to a container that could not run it."""
    door = Gate(tmp_path, shell)
    process = door.start(program, env=dict(os.environ))
    code, _, _ = door.ends(process, gate.GO)

    assert (door.said, code) == (gate.ABSENT + b"\n", 125)


@pytest.mark.parametrize("shell", [s for s in SHELLS if s[0] != "bash"], ids=" ".join)
def test_a_program_that_vanishes_at_the_last_moment_is_told(
    tmp_path: Path, shell: list[str]
) -> None:
    """A shell that cannot execute it says so behind its own words."""
    program = tmp_path / "program"
    shutil.copy("/bin/true", program)
    door = Gate(tmp_path, shell)
    process = door.start(str(program), env=dict(os.environ))
    program.unlink()
    (tmp_path / "run").write_bytes(gate.opening([], {}, {}, str(door.work)))
    code, stdout, stderr = door.ends(process, gate.GO)

    logs = Logs(stdout=stdout, stderr=stderr, stdout_size=len(stdout), stderr_size=len(stderr))
    passed = gate.passed(Exit(code=code), logs, 0.0)
    assert (code, passed.not_started) == (127, True)
    assert str(program) in passed.detail


@pytest.mark.parametrize(
    ("end", "logs", "expected"),
    [
        (Exit(code=0), Logs(), False),
        (Exit(code=127), Logs(stderr=b"sh: x: not found\n", stderr_size=17), False),
        (Exit(code=127), Logs(stderr=b"e\nsbx-gate: not executed\n", stderr_size=25), True),
        (Exit(code=126), Logs(stderr=b"sbx-gate: not executed\n", stderr_size=23), True),
        (Exit(code=1), Logs(stderr=b"sbx-gate: not executed\n", stderr_size=23), False),
        (
            Exit(code=127),
            Logs(stderr=b"sbx-gate: not executed\n", stderr_size=23, stdout_size=1),
            False,
        ),
        (Exit(code=127), Logs(stderr=b"sbx-gate: not executed\nx", stderr_size=24), False),
    ],
)
def test_only_the_gate_says_that_nothing_was_executed(
    end: Exit, logs: Logs, expected: bool
) -> None:
    """A program's own 126 and 127 are its own."""
    assert gate.passed(end, logs, 5.0).not_started == expected


def test_a_run_begins_when_the_gate_opens() -> None:
    """Not when its container started."""
    assert gate.passed(Exit(code=0, started=1.0, finished=9.0), Logs(), 5.0).started == 5.0


def test_variables_that_shells_set_for_themselves() -> None:
    """What a shell would change on its way is named; what it hands on is not."""
    assert gate.cannot_pass({"PWD": "/", "IFS": "x", "A": "", "UID": "0"}) == ["IFS", "PWD"]


def test_a_message_for_a_shell_has_a_size() -> None:
    """Counted in bytes, all arguments together."""
    assert gate.fits(["é" * (WARM_ARGUMENT_BYTES // 2)])
    assert not gate.fits(["é" * (WARM_ARGUMENT_BYTES // 2), "x"])
