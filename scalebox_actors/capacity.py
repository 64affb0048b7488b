"""What this host has to give to runs, and what its operator lets a node use of that."""

import os
import re
from pathlib import Path

from scalebox_actors.errors import BadInput
from scalebox_actors.launch.gpus import NVIDIA
from scalebox_actors.limits import KIB, MEMORY_RESERVE
from scalebox_actors.pool import Room

SHARED = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset")
"""What every program needs that uses one of NVIDIA's GPUs, where it is there."""
GPU_MOST = 1023
_TOTAL = re.compile(r"^MemTotal:\s+(\d+) kB$", re.MULTILINE)
_LIST = re.compile(r"\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*")


def room_of(cpus: float | None, memory: int | None, gpus: str | None) -> Room:
    """Return what a node may use: what its operator says, else the whole host less a reserve.

    `gpus`: a list of indexes as `0,2-3`, `none`, or `auto` for those whose device files are there.
    """
    return Room(
        millicpus=round((cpus or host_cpus()) * 1000),
        memory=memory if memory is not None else free_for_runs(host_memory()),
        gpus=host_gpus() if gpus in (None, "auto") else read_gpus(gpus or ""),
    )


def free_for_runs(total: int | None) -> int | None:
    """Return a host's memory less what is kept for its system; None if it is not known. Pure."""
    return None if total is None else total - min(MEMORY_RESERVE, total // 8)


def read_gpus(text: str) -> tuple[int, ...]:
    """Read a list of indexes, `0,2-3`; raises BadInput. Pure."""
    if text == "none":
        return ()
    if not _LIST.fullmatch(text):
        raise BadInput(f"--gpus {text[:80]!r} is not `auto`, `none` or a list like 0,1 or 0-3")
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    if not found or max(found) > GPU_MOST:
        raise BadInput(f"--gpus {text[:80]!r}: indexes go up to {GPU_MOST}, the smaller one first")
    return tuple(sorted(found))


def gpu_devices(given: tuple[str, ...]) -> tuple[str, ...]:
    """Return the device files of a GPU: those that the operator names, else NVIDIA's."""
    wrong = [path for path in given if not re.fullmatch(r"/dev/[A-Za-z0-9_./{}:-]+", path)]
    if wrong or any(".." in path for path in given):
        raise BadInput(f"--gpu-devices {(wrong or given)[0][:80]!r} is no path below /dev")
    return given or (NVIDIA, *(path for path in SHARED if Path(path).exists()))


def host_cpus() -> int:
    """Return how many CPUs this process may run on."""
    return len(os.sched_getaffinity(0))


def host_memory() -> int | None:
    """Return the host's memory in bytes, or None if the system does not tell."""
    try:
        found = _TOTAL.search(Path("/proc/meminfo").read_text(encoding="ascii"))
    except OSError:
        return None
    return int(found[1]) * KIB if found else None


def host_gpus(folder: str = "/dev") -> tuple[int, ...]:
    """Return the indexes of NVIDIA's GPUs by their device files."""
    names = [path.name.removeprefix("nvidia") for path in Path(folder).glob("nvidia[0-9]*")]
    return tuple(sorted(int(name) for name in names if name.isdecimal()))
