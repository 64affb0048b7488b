"""What was measured where: the facts that stand beside every figure."""

import os
import platform
import shutil
import subprocess
import tempfile
import time
from importlib import metadata
from pathlib import Path

import msgspec

from scalebox_actors.server import find_binary

ROOT = Path(__file__).resolve().parent.parent
_SYNCS = 50


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Machine, versions, commit and durability."""

    date: str
    commit: str
    processor: str
    cores: int
    memory_gib: float
    kernel: str
    python: str
    packages: dict[str, str]
    tools: dict[str, str]
    file_system: str
    sync_ms: float
    """What one fsync of 4 KiB costs where the stores lie: the floor of every durable write."""
    durability: str = "sync_interval: always (every acknowledged write is on disk)"


def facts() -> Facts:
    """Look around."""
    return Facts(
        date=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        commit=_commit(),
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        # Not the build: that is the name of whoever made this machine's.
        kernel=f"{platform.system()} {platform.release().split('-')[0]}",
        python=platform.python_version(),
        packages={
            name: metadata.version(name) for name in ("nats-py", "uvloop", "aiodocker", "msgspec")
        },
        tools={
            "nats-server": _first_line(find_binary(), "--version"),
            "dockerd": _first_line("dockerd", "--version"),
            "crun": _first_line("crun", "--version"),
        },
        file_system=_file_system(Path(tempfile.gettempdir())),
        sync_ms=_sync_ms(),
    )


def load() -> float:
    """Return how many processes wanted to run, averaged over the last minute."""
    return round(os.getloadavg()[0], 2)


def resident_kib(pid: int) -> int:
    """Return the resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise ProcessLookupError(pid)


def own_kib() -> int:
    """Return the resident memory of this process."""
    return resident_kib(os.getpid())


def _first_line(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return "not installed"
    told = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return (told.stdout or told.stderr).partition("\n")[0].strip()


def _commit() -> str:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        return "unknown"
    commit = _first_line("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD")
    dirty = _first_line(
        "git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no", "scalebox_actors"
    )
    return f"{commit} with local changes" if dirty else commit


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(place: Path) -> str:
    """Return the kind of file system that holds `place`: on tmpfs a sync costs nothing."""
    best, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mounted, found, *_ = line.split()
        if place.resolve().is_relative_to(mounted) and len(mounted) >= len(best):
            best, kind = mounted, found
    return kind


def _sync_ms() -> float:
    with tempfile.TemporaryFile() as file:
        began = time.perf_counter()
        for _ in range(_SYNCS):
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
        return round((time.perf_counter() - began) / _SYNCS * 1000, 2)
