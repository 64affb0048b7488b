"""The page on resident programs is true: its very programs are run, and speak as it says."""

import base64
import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scalebox_actors.contract import resident
from scalebox_actors.contract.resident import Answer, Ready

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "resident.md"
APP = ROOT / "examples" / "resident" / "app"
SHELLS = ("dash", "bash", "busybox sh")

BODIES = (
    b"",
    b"hello",
    b'quotes " and \\ and "body":"x"}',
    "ünïcode 日本 \u0000\u0007".encode(),
    b"two\nlines\r\n",
    b"$(touch pwned) `touch pwned` ; touch pwned",
)


def snippet(language: str) -> str:
    """Return the first fenced block of a language."""
    found = re.search(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found.group(1)


def converse(argv: list[str], lines: list[bytes], folder: Path) -> list[resident.Line]:
    """Run a program, give it lines, end its input, and return what it said."""
    ended = subprocess.run(  # noqa: S603 - the page's own programs
        argv, input=b"".join(lines), capture_output=True, cwd=folder, timeout=15, check=True
    )
    unknown: list[str] = []
    said = [resident.read_line(line, unknown.append) for line in ended.stdout.splitlines()]

    assert (unknown, ended.stderr) == ([], b"")
    return said


def messages(bodies: tuple[bytes, ...]) -> list[bytes]:
    """Return a line for every body; ids may hold quotes and backslashes."""
    return [
        resident.message_line(f'm"\\{n}', 1, body, {"id": "no", "body": "no"})
        for n, body in enumerate(bodies)
    ]


def ids(said: list[resident.Line]) -> list[str | None]:
    """Return whose answers they are."""
    return [line.id for line in said if isinstance(line, Answer)]


def bodies(said: list[resident.Line]) -> list[bytes]:
    """Return what is sent."""
    answers = [line for line in said if isinstance(line, Answer)]
    return [emission.body for answer in answers for emission in resident.emissions(answer, ())]


@pytest.mark.parametrize(("language", "file"), [("python", "digest.py"), ("sh", "collect.sh")])
def test_the_example_is_the_page(language: str, file: str) -> None:
    """What the page shows is what the example runs, and short enough to be read."""
    text = snippet(language)

    assert (APP / file).read_text() == text
    assert len(text.splitlines()) <= 32


def test_the_python_program(tmp_path: Path) -> None:
    """It says ready, answers every message whatever its body is, and ends with its input."""
    (tmp_path / "body").write_bytes(b"\xff" * 70_000)
    script = tmp_path / "digest.py"
    script.write_text(snippet("python"))
    lines = [
        *messages(BODIES),
        resident.message_line("long", 1, None, {}, str(tmp_path)),
        resident.message_line("lost", 1, None, {}, str(tmp_path / "absent")),
    ]
    ready, *said = converse([sys.executable, str(script)], lines, tmp_path)
    of_long = hashlib.sha256(b"\xff" * 70_000).hexdigest()

    assert ready == Ready(in_flight=16, name="digest 1")
    assert ids(said) == [f'm"\\{n}' for n in range(len(BODIES))] + ["long", "lost"]
    assert bodies(said[:-1]) == [
        *(hashlib.sha256(body).hexdigest().encode() for body in BODIES),
        of_long.encode(),
    ]
    assert isinstance(said[-1], Answer)
    assert said[-1].exit == 1


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_program(tmp_path: Path, shell: str) -> None:
    """In every shell it hands back each body exactly, and says so of one that is no text."""
    script = tmp_path / "collect.sh"
    script.write_text(snippet("sh"))
    lines = [*messages(BODIES), resident.message_line("bytes", 1, b"\xff\x00", {})]
    said = converse([*shell.split(), str(script)], lines, tmp_path)

    assert b"body_base64" in lines[-1]
    assert base64.b64encode(b"\xff\x00") in lines[-1]
    assert ids(said) == [f'm"\\{n}' for n in range(len(BODIES))] + ["bytes"]
    assert bodies(said) == list(BODIES)
    assert isinstance(said[-1], Answer)
    assert said[-1].exit == 2
    assert not (tmp_path / "pwned").exists()
