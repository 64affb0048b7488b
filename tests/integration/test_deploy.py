"""The scripts that stand between a fresh machine and the product."""

import asyncio
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import NoReturn

import pytest

from scalebox_actors.runtimes.docker_survey import survey_engine

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
NOBODY = 65534
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
EXPOSURE = 25
"""Tenths of what `systemd-analyze security` calls a unit's exposure; a bare one has 96."""

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 and not os.environ.get("SBX_TESTS_MUST_RUN"),
    reason="only root can start a dockerd or become somebody else",
)


class _Pong(BaseHTTPRequestHandler):
    """An engine that can say that it is there."""

    def do_GET(self) -> None:
        """Answer /_ping."""
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

    def address_string(self) -> str:
        """Return a name; a unix socket's client has none."""
        return "client"


@pytest.fixture
def short() -> Iterator[Path]:
    """Return a folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="sbx", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def engine(short: Path) -> Iterator[str]:
    """Return the host of an engine that answers."""
    server = ThreadingUnixStreamServer(str(short / "docker.sock"), _Pong)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"unix://{short}/docker.sock"
    server.shutdown()
    server.server_close()
    thread.join()


def with_engine(
    host: str, *command: str, folder: Path = DEPLOY, user: int | None = None
) -> tuple[int, str, str]:
    """Run a command by with-engine; return its exit code, output and complaints."""
    done = subprocess.run(  # noqa: S603 - our own script
        [folder / "with-engine", *command],
        env={**os.environ, "DOCKER_HOST": host},
        capture_output=True,
        text=True,
        check=False,
        user=user,
    )
    return done.returncode, done.stdout, done.stderr


def test_an_engine_that_answers_is_used(engine: str) -> None:
    """The command gets the engine that is there, and its exit code comes back."""
    actual = with_engine(engine, "sh", "-c", 'echo "$DOCKER_HOST ${SBX_RUNTIME:-docker}"; exit 7')

    assert (7, f"{engine} docker\n", "") == actual


@needs_root
def test_without_an_engine_processes_run_and_it_is_said(short: Path) -> None:
    """Who has no engine and cannot start one is told what to install, and runs processes."""
    dead = f"unix://{short}/nothing.sock"
    deploy = shutil.copytree(DEPLOY, short / "deploy")  # the checkout may be closed to others
    short.chmod(0o755)
    show = 'echo "${DOCKER_HOST:-none} $SBX_RUNTIME"; exit 3'

    code, output, complaint = with_engine(dead, "sh", "-c", show, folder=deploy, user=NOBODY)

    assert (code, output) == (3, "none process\n")
    assert "install docker.io" in complaint
    assert complaint.count("\n") == 1


@needs_root
@pytest.mark.integration
@pytest.mark.timeout(300)
def test_a_private_dockerd_leaves_nothing_behind(short: Path) -> None:
    """It answers, starting it twice is harmless, and after stop no process and no mount is left."""
    script, folder = DEPLOY / "private-dockerd", short / "engine"
    answers = [
        subprocess.run([script, "start", folder], capture_output=True, text=True, check=True)  # noqa: S603 - our own script
        for _ in range(2)
    ]

    subprocess.run([script, "stop", folder], check=True)  # noqa: S603 - our own script

    assert [f"DOCKER_HOST=unix://{folder}/docker.sock\n"] * 2 == [a.stdout for a in answers]
    assert not [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(folder) in _text(p)]
    assert str(folder) not in Path("/proc/mounts").read_text()


@needs_root
@pytest.mark.integration
@pytest.mark.timeout(300)
def test_a_tuned_dockerd_works_in_memory(short: Path) -> None:
    """Its roots are tmpfs, crun is everybody's runtime, usage is measured; nothing is left."""
    script, folder = DEPLOY / "private-dockerd", short / "engine"
    subprocess.run([script, "start", folder, "tuned"], capture_output=True, check=True)  # noqa: S603 - our own script
    mounted = Path("/proc/mounts").read_text()
    facts = asyncio.run(survey_engine(f"unix://{folder}/docker.sock"))
    subprocess.run([script, "stop", folder], check=True)  # noqa: S603 - our own script

    assert [f" {folder}/{name} tmpfs " in mounted for name in ("data", "exec")] == [True, True]
    assert (facts.default_runtime, facts.live_restore) == ("crun", True)
    assert (facts.cgroup_driver, facts.log_driver) == ("cgroupfs", "local")
    assert str(folder) not in Path("/proc/mounts").read_text()


@pytest.mark.parametrize(
    "words", [(), ("start",), ("start", "/tmp/x", "quick"), ("a", "b", "c", "d")]
)
def test_a_private_dockerd_is_asked_for_in_one_way(words: tuple[str, ...]) -> None:
    """Anything else is answered with how it is used, and starts nothing."""
    done = subprocess.run(  # noqa: S603 - our own script
        [DEPLOY / "private-dockerd", *words], capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    assert "private-dockerd start DIR [tuned]" in done.stderr


def _text(path: Path) -> str:
    """Return a file of /proc, which may be gone by now."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def analyse(*words: str) -> subprocess.CompletedProcess[str]:
    """Ask systemd-analyze; it needs no systemd that runs."""
    return subprocess.run(  # noqa: S603 - a program of the machine
        ["systemd-analyze", "--no-pager", *words],  # noqa: S607
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("path", UNITS, ids=lambda p: str(p.name))
def test_systemd_accepts_a_unit(
    path: Path, tmp_path: Path, cannot_run: Callable[[str], NoReturn]
) -> None:
    """What would run it finds finds no fault with it, and rates what it may still do as little."""
    if shutil.which("systemd-analyze") is None:
        cannot_run("systemd-analyze is not installed")
    unit = tmp_path / path.name
    # The package is not installed here; whether a program is there is all that this hides.
    unit.write_text(path.read_text().replace("/opt/sbx-actor/bin/sbx-actor", "/bin/true"))

    verified = analyse("verify", str(unit))
    rated = analyse("security", "--offline=true", f"--threshold={EXPOSURE}", str(unit))

    assert (verified.returncode, verified.stderr) == (0, "")
    assert rated.returncode == 0, rated.stdout
