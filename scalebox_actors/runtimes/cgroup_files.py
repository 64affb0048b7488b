"""What the files of a control group say that was used, and how they are written to.

Standard library only, as everything the shepherd is made of: it and `cgroups.py` read the same
files. The parsers are pure; what a kernel or a right does not give is None and never a guess.
"""

import contextlib
import os
from collections.abc import Mapping
from typing import NamedTuple

NANO, MICRO = 1e9, 1e6
HANDED_DOWN = ("+cpu", "+memory", "+io", "+pids")
"""What groups of version 2 hand down: what is read, and what is limited."""
_PEAK = "memory.max_usage_in_bytes"
_BLKIO = "blkio.throttle.io_service_bytes"
V1 = {
    "cpuacct": ("cpuacct.usage",),
    "memory": (_PEAK,),
    "blkio": (f"{_BLKIO}_recursive", _BLKIO, "blkio.bfq.io_service_bytes_recursive"),
}
"""The files of version 1 that are read, by their hierarchy."""
V2 = ("cpu.stat", "memory.peak", "io.stat")
"""The files of version 2 that are read."""


class Reading(NamedTuple):
    """What a group used since it was made, with all groups below it; None: not known."""

    cpu_seconds: float | None = None
    memory_peak: int | None = None
    """With the page cache, as the kernel counts it against a limit."""
    io_read_bytes: int | None = None
    """From and to disks: what came out of the page cache is not counted."""
    io_write_bytes: int | None = None


def read_v1(files: Mapping[str, str]) -> Reading:
    """Read a group of version 1 from the texts of its files, by their names."""
    usage, tables = number(files.get("cpuacct.usage")), [_blkio(files.get(n)) for n in V1["blkio"]]
    # Kernels from 6.10 on count only on disks of which some group is limited: an empty table is
    # more often that than a program that moved nothing.
    io = next((table for table in tables if table), None)
    return Reading(
        cpu_seconds=None if usage is None else usage / NANO,
        memory_peak=number(files.get(_PEAK)),
        io_read_bytes=None if io is None else io.get("Read", 0),
        io_write_bytes=None if io is None else io.get("Write", 0),
    )


def read_v2(files: Mapping[str, str]) -> Reading:
    """Read a group of version 2 from the texts of its files, by their names."""
    usage, io = number(pairs(files.get("cpu.stat")).get("usage_usec")), files.get("io.stat")
    return Reading(
        cpu_seconds=None if usage is None else usage / MICRO,
        memory_peak=number(files.get("memory.peak")),
        io_read_bytes=None if io is None else _io(io, "rbytes"),
        io_write_bytes=None if io is None else _io(io, "wbytes"),
    )


def number(text: str | None) -> int | None:
    """Return the number that a file holds, or None if it holds none."""
    stripped = (text or "").strip()
    return int(stripped) if stripped.isascii() and stripped.isdigit() else None


def pairs(text: str | None) -> dict[str, str]:
    """Return what lines like `usage_usec 2500` say, by their first word."""
    words = (line.partition(" ") for line in (text or "").splitlines())
    return {name: value for name, _, value in words}


def _blkio(text: str | None) -> dict[str, int]:
    """Sum lines like `8:0 Read 4096` over all disks, by their word."""
    sums: dict[str, int] = {}
    for line in (text or "").splitlines():
        disk, word, count = (*line.split(), "", "", "")[:3]
        if ":" in disk and (moved := number(count)) is not None:
            sums[word] = sums.get(word, 0) + moved
    return sums


def _io(text: str, word: str) -> int:
    """Sum `8:0 rbytes=4096 wbytes=0 …` over all disks."""
    found = (pair.partition("=") for pair in text.split())
    return sum(number(value) or 0 for name, _, value in found if name == word)


def put(path: str, text: str) -> None:
    """Set a value; raises OSError for one that the kernel does not have or does not allow."""
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)  # and never makes one
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)


def hand_down(group: str) -> None:
    """Let the groups below one of version 2 have what is measured and limited, as far as it can."""
    for controller in HANDED_DOWN:
        with contextlib.suppress(OSError):  # what is not there cannot be limited
            put(f"{group}/cgroup.subtree_control", controller)
