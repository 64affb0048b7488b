"""The programs of the examples, run as a runtime runs them: two arguments and a work directory."""

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from scalebox_actors.topology.load import load_with_warnings

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PRIMES_TO_100000 = 9592


class Sent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of sink-tasks.jsonl."""

    body: str
    module: str = ""
    headers: dict[str, str] = {}


class Joined(msgspec.Struct, frozen=True):
    """A message as `gather:` delivers it."""

    body: bytes


def run(program: str, body: str, work: Path, **env: str) -> list[Sent]:
    """Run one program of an example and return what it sends."""
    command = [sys.executable, str(EXAMPLES / program), body, "{}"]
    subprocess.run(command, check=True, cwd=work, env={**os.environ, "WORK_DIR": str(work), **env})  # noqa: S603 - our own programs
    lines = (work / "sink-tasks.jsonl").read_bytes().splitlines()
    return [msgspec.json.decode(line, type=Sent) for line in lines]


def load(path: Path) -> ModuleType:
    """Import a file that is no part of a package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        pytest.param(100_000, PRIMES_TO_100000, id="the-demo"),
        pytest.param(10, 4, id="fewer-numbers-than-parts"),
        pytest.param(2, 1, id="the-first-prime-alone"),
        pytest.param(1, 0, id="none-at-all"),
    ],
)
def test_primes_are_counted(tmp_path: Path, last: int, expected: int) -> None:
    """Split, count and total together give the number of primes, however small N is."""
    parts = run("primes/app/split.py", str(last), tmp_path)
    counts = [run("primes/app/count.py", part.body, tmp_path)[0].body for part in parts]
    joined = {"group": "g", "count": len(counts), "members": counts}
    total = load(EXAMPLES / "primes/total.py")

    actual = asyncio.run(total.add(Joined(json.dumps(joined).encode())))

    assert {part.headers["_parts"] for part in parts} == {str(len(parts))}
    assert str(expected).encode() == actual


@pytest.mark.parametrize("chunks", [1, 3, 7])
def test_reads_are_split_without_loss(tmp_path: Path, chunks: int) -> None:
    """The chunks, put together in order, are the sample's reads; no read is cut in two."""
    reads = [f"@r{n}\nACGT{'A' * n}\n+\n{'I' * (4 + n)}\n" for n in range(7)]
    for folder in ("reads", "work"):
        (tmp_path / folder).mkdir()
    for mate in (1, 2):
        (tmp_path / f"reads/s_{mate}.fq").write_text("".join(reads))

    sent = run(
        "lambda-phage/app/split.py", f"s {chunks}", tmp_path, CLUSTER_DATA_ROOT=str(tmp_path)
    )

    assert [Sent(f"s-{n:03}", "", {"_chunks": str(chunks)}) for n in range(chunks)] == sent
    for mate in (1, 2):
        written = [(tmp_path / f"work/{line.body}_{mate}.fq").read_text() for line in sent]
        assert "".join(reads) == "".join(written)
        assert all(text.count("\n") % 4 == 0 for text in written)
    assert len(list((tmp_path / "work").iterdir())) == 2 * chunks


@pytest.mark.parametrize(
    "example", ["primes", "lambda-phage", "two-sites", "three-sites", "resident"]
)
def test_topologies_raise_no_doubt(example: str) -> None:
    """What we show to others loads without a single warning."""
    path = EXAMPLES / example / "topology.yaml"

    topology, warnings = load_with_warnings(path.read_bytes(), path=str(path))

    assert (example, []) == (topology.name, warnings)


@pytest.mark.integration
@pytest.mark.timeout(90)
def test_hooks_add_up(tmp_path: Path) -> None:
    """The whole example on plain processes: however batches fell, the results add up."""
    program = "import sys; from scalebox_actors.cli import main; sys.exit(main())"
    words = ["run", str(EXAMPLES / "hooks/topology.yaml"), "--ephemeral", "--runtime", "process"]
    words += ["--set", f"APP={EXAMPLES / 'hooks/app'}", "--send", "split", "40"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("SBX_")}
    ended = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", program, *words],
        env={**env, "XDG_STATE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    results = [int(line) for line in ended.stdout.split()]

    assert sum(results) == 10 * 40 * 41 // 2
    assert len(results) <= 40
