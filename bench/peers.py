"""Other tools that run many small tasks: how each is installed, started and ended.

A peer lives in a virtual environment of its own below `.build/peers`, or below the folder that
SBX_BENCH_PEERS names, with pinned versions, and runs as `python -m bench.peer_NAME JOB` there. It
is a session of its own and everything it starts carries a mark in its environment; both are ended
after every round, whatever it did itself.
"""

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from bench.children import ChildFailedError
from bench.machine import ROOT
from bench.peer_work import PeerJob

HOME = Path(os.environ.get("SBX_BENCH_PEERS") or ROOT / ".build" / "peers").absolute()
"""Not to be moved: an environment knows its own path."""
MARK = "SBX_BENCH_PEER"
INSTALL_SECONDS = 300.0
PATIENCE = 90.0
END_SECONDS = 10.0


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """One other tool."""

    name: str
    module: str
    pins: tuple[str, ...]
    durability: str
    """What of its tasks survives a power cut, in a few words."""
    functions: bool = True
    """Whether it can run a function without starting a process for it."""

    @property
    def title(self) -> str:
        """Name, version and durability, as they stand beside a figure."""
        return f"{self.pins[0].replace('==', ' ')}; {self.durability}"


PEERS = (
    Peer(
        name="taskiq-nats",
        module="bench.peer_taskiq",
        pins=("taskiq-nats==0.7.0", "taskiq==0.13.0", "nats-py==2.16.0"),
        durability="tasks synced to disk (our server), effects may double",
    ),
    Peer(
        name="dask",
        module="bench.peer_dask",
        pins=("distributed==2026.8.0", "dask==2026.8.0"),
        durability="in memory",
    ),
    Peer(
        name="parsl",
        module="bench.peer_parsl",
        pins=("parsl==2026.10.26",),
        durability="in memory",
    ),
    Peer(
        name="ray",
        module="bench.peer_ray",
        pins=("ray==2.60.0",),
        durability="in memory",
    ),
    Peer(
        name="HyperQueue",
        module="bench.peer_hyperqueue",
        pins=("hyperqueue==0.27.0",),
        durability="in memory (no journal)",
        functions=False,
    ),
)


class PeerMissingError(Exception):
    """A peer cannot be installed here."""


class _PeerAnswer(msgspec.Struct, frozen=True):
    seconds: float


async def install(peer: Peer) -> None:
    """Make the peer's environment unless it is there; raises PeerMissingError with the reason."""
    await asyncio.to_thread(_install, peer)


async def peer_seconds(peer: Peer, job: PeerJob) -> float:
    """Return the seconds that a peer took for a job, started and ended for it alone."""
    mark = secrets.token_hex(8)
    child = await asyncio.create_subprocess_exec(
        str(_python(peer)),
        *("-m", peer.module, msgspec.json.encode(job).decode()),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        cwd=job.folder,
        env=_environment(peer, mark),
    )
    try:
        async with asyncio.timeout(PATIENCE):
            told, complaint = await child.communicate()
    except TimeoutError:
        raise ChildFailedError(f"{peer.name}: no answer in {PATIENCE:g} s") from None
    finally:
        await asyncio.to_thread(_end, child.pid, mark)
        await child.wait()
    last = told.strip().rpartition(b"\n")[2]
    if child.returncode != 0 or not last.startswith(b"{"):
        why = complaint.decode(errors="replace").strip().rpartition("\n")[2]
        raise ChildFailedError(f"{peer.name}: exit code {child.returncode}: {why[:200]}")
    return msgspec.json.decode(last, type=_PeerAnswer).seconds


def _python(peer: Peer) -> Path:
    return HOME / peer.name.lower() / "bin" / "python"


def _environment(peer: Peer, mark: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    path = f"{_python(peer).parent}:{os.environ.get('PATH', os.defpath)}"
    return {**kept, "PATH": path, "PYTHONPATH": str(ROOT), MARK: mark}


def _install(peer: Peer) -> None:
    """Install the pinned packages; a file of the pins says that it was done to its end."""
    folder = HOME / peer.name.lower()
    pins, done = "\n".join(peer.pins), folder / "pins"
    if done.exists() and done.read_text() == pins:
        return
    commands = (
        (sys.executable, "-m", "venv", "--clear", str(folder)),
        (str(_python(peer)), "-m", "pip", "install", "--quiet", *peer.pins),
    )
    for command in commands:
        try:
            subprocess.run(  # noqa: S603 - our own arguments
                command, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS
            )
        except subprocess.CalledProcessError as error:
            last = str(error.stderr).strip().rpartition("\n")[2]
            raise PeerMissingError(f"{peer.pins[0]} cannot be installed: {last[:160]}") from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise PeerMissingError(f"{peer.pins[0]} cannot be installed: {error}") from error
    done.write_text(pins)


def _end(leader: int, mark: str) -> None:
    """End a peer's session and whatever else carries its mark, by their process ids."""
    end = time.monotonic() + END_SECONDS
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(OSError):
            os.killpg(leader, number)
        while time.monotonic() < end and (left := _marked(mark)):
            for pid in left:
                with contextlib.suppress(OSError):
                    os.kill(pid, number)
            time.sleep(0.05)
            if number == signal.SIGTERM and time.monotonic() > end - END_SECONDS / 2:
                break


def _marked(mark: str) -> list[int]:
    wanted = f"{MARK}={mark}".encode()
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208 - names alone
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError):
            environ = Path(f"/proc/{name}/environ").read_bytes()
            if wanted in environ.split(b"\0") and _lives(name):
                found.append(int(name))
    return found


def _lives(pid: str) -> bool:
    """Whether a process is more than an exit code that nobody has taken yet."""
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state not in ("Z", "X")
