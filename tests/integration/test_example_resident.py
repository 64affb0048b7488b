"""The example of a program that stays, run as its page says, with and without containers."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "resident"
PROGRAM = [
    sys.executable,
    "-c",
    "import sys; from scalebox_actors.cli import main; sys.exit(main())",
]
BODIES = [f"message {number}" for number in range(100)]


def run(tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Send all bodies through the example and wait for its end."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SBX_")}
    environment = kept | {"XDG_STATE_HOME": str(tmp_path / "state"), "PYTHONPATH": str(ROOT)}
    sends = [word for body in BODIES for word in ("--send", "digest", body)]
    command = ["run", str(EXAMPLE / "topology.yaml"), "--ephemeral", *options, *sends]
    return subprocess.run(  # noqa: S603 - the program under test
        [*PROGRAM, *command],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


@pytest.mark.integration
@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", ["process", "docker"])
def test_every_message_is_answered(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    """A hundred messages go through two programs, each comes out once, nothing stays behind."""
    if kind == "docker":
        request.getfixturevalue("docker_socket")
        subprocess.run([str(EXAMPLE / "image.sh")], check=True, capture_output=True, timeout=150)  # noqa: S603 - ours
        ended = run(tmp_path, "--runtime", "docker")
    else:
        ended = run(tmp_path, "--runtime", "process", "--set", f"APP={EXAMPLE / 'app'}")
    expected = sorted(hashlib.sha256(body.encode()).hexdigest() for body in BODIES)

    assert (ended.returncode, ended.stderr if ended.returncode else "") == (0, "")
    assert sorted(ended.stdout.split()) == expected
