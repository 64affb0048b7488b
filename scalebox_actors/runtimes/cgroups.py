"""What a run used, as its control group tells: CPU time, peak memory, bytes read and written.

Whoever runs something makes a group for it, has it run in there or in a group below, and reads
when it has ended: an engine removes a container's own group at its end, but the parent keeps the
sums. The parsers are pure; what a kernel or a right does not give is None and never a guess.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping

import msgspec

NANO, MICRO = 1e9, 1e6
MEASURING = ("cpuacct", "memory", "blkio")
"""The hierarchies of version 1 that are read."""
ENABLED = ("+cpu", "+memory", "+io", "+pids")
"""What groups of version 2 hand down: what is read, and what engines limit with."""
_BLKIO = "blkio.throttle.io_service_bytes"
_V1 = {
    "cpuacct": ("cpuacct.usage",),
    "memory": ("memory.max_usage_in_bytes",),
    "blkio": (f"{_BLKIO}_recursive", _BLKIO, "blkio.bfq.io_service_bytes_recursive"),
}
_V2 = ("cpu.stat", "memory.peak", "io.stat")


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What a group used since it was made, with all groups below it; None: not known."""

    cpu_seconds: float | None = None
    memory_peak: int | None = None
    """With the page cache, as the kernel counts it against a limit."""
    io_read_bytes: int | None = None
    """From and to disks: what came out of the page cache is not counted."""
    io_write_bytes: int | None = None


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """How control groups are mounted on this host."""

    version: int = 0
    """0: not at all."""
    roots: Mapping[str, str] = {}
    """Version 1: controller or `name=…` to mount point. Version 2: one, under the empty name."""
    hybrid: bool = False
    """Version 1 does the work, and an empty version 2 lies beside it."""

    @property
    def word(self) -> str:
        """Return `v1`, `v2`, `hybrid` or `none`."""
        return "hybrid" if self.hybrid else f"v{self.version}" if self.version else "none"


# --- pure ---------------------------------------------------------------------------------------


def layout_of(mounts: str) -> Layout:
    """Read the layout from the text of `/proc/mounts`."""
    old: dict[str, str] = {}
    new = ""
    for line in mounts.splitlines():
        _, place, kind, options = (*line.split(" "), "", "", "", "")[:4]
        if kind == "cgroup":
            words = options.split(",")
            old |= {word: place for word in words if word not in ("rw", "ro", "relatime")}
        elif kind == "cgroup2":
            new = new or place
    if "memory" in old or "cpuacct" in old:
        return Layout(version=1, roots=old, hybrid=bool(new))
    return Layout(version=2, roots={"": new}) if new else Layout()


def read_v1(files: Mapping[str, str]) -> Reading:
    """Read a group of version 1 from the texts of its files, by their names."""
    usage, peak = _number(files.get("cpuacct.usage")), _number(files.get(_V1["memory"][0]))
    tables = [_blkio(files.get(name, "")) for name in _V1["blkio"]]
    # Kernels from 6.10 on count only on disks of which some group is limited: an empty table is
    # more often that than a program that moved nothing.
    io = next((table for table in tables if table), None)
    return Reading(
        cpu_seconds=None if usage is None else usage / NANO,
        memory_peak=peak,
        io_read_bytes=None if io is None else io.get("Read", 0),
        io_write_bytes=None if io is None else io.get("Write", 0),
    )


def read_v2(files: Mapping[str, str]) -> Reading:
    """Read a group of version 2 from the texts of its files, by their names."""
    cpu = dict(_pairs(files.get("cpu.stat", "")))
    usage, io = _number(cpu.get("usage_usec")), files.get("io.stat")
    return Reading(
        cpu_seconds=None if usage is None else usage / MICRO,
        memory_peak=_number(files.get("memory.peak")),
        io_read_bytes=None if io is None else _io(io, "rbytes"),
        io_write_bytes=None if io is None else _io(io, "wbytes"),
    )


def _number(text: str | None) -> int | None:
    stripped = (text or "").strip()
    return int(stripped) if stripped.isascii() and stripped.isdigit() else None


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        yield name, value


def _blkio(text: str) -> dict[str, int]:
    """Sum lines like `8:0 Read 4096` over all disks, by their word."""
    sums: dict[str, int] = {}
    for line in text.splitlines():
        disk, word, number = (*line.split(), "", "", "")[:3]
        if ":" in disk and (count := _number(number)) is not None:
            sums[word] = sums.get(word, 0) + count
    return sums


def _io(text: str, word: str) -> int:
    """Sum `8:0 rbytes=4096 wbytes=0 …` over all disks."""
    pairs = [pair.partition("=") for pair in text.split()]
    return sum(_number(value) or 0 for name, _, value in pairs if name == word)


# --- on this host -------------------------------------------------------------------------------


def host_layout() -> Layout:
    """Return how control groups are mounted here."""
    try:
        with open("/proc/mounts", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            return layout_of(file.read())
    except OSError:
        return Layout()


class Cgroups:
    """Groups below one of our own; a path begins with `/` and is the same in all hierarchies.

    Everything here takes a few system calls of microseconds each, less than the way to a thread.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._open: set[str] = set()

    def make(self, path: str) -> None:
        """Make a group; raises OSError where that is not allowed or not possible."""
        parent = path.rpartition("/")[0]
        if parent not in self._open:
            self._prepare(parent)
            self._open.add(parent)
        for root in self._measured():
            with contextlib.suppress(FileExistsError):
                os.mkdir(root + path, 0o755)  # noqa: PTH102 - pathlib costs as much as the call

    def read(self, path: str) -> Reading:
        """Return what a group used; all None if there is no such group."""
        if self.layout.version == 2:  # noqa: PLR2004 - a version
            root = self.layout.roots[""]
            return read_v2(_texts(f"{root}{path}", _V2))
        files: dict[str, str] = {}
        for controller, names in _V1.items():
            if controller in self.layout.roots:
                files |= _texts(f"{self.layout.roots[controller]}{path}", names)
        return read_v1(files)

    def remove(self, path: str) -> bool:
        """Remove a group and what an engine left below it; False if something runs in it."""
        return False not in [_remove(root + path) for root in self._roots()]  # try them all

    def below(self, path: str) -> list[str]:
        """Return the names of the groups right below a path."""
        found: set[str] = set()
        for root in self._measured():
            with contextlib.suppress(OSError), os.scandir(root + path) as entries:
                found |= {entry.name for entry in entries if entry.is_dir(follow_symlinks=False)}
        return sorted(found)

    def _roots(self) -> list[str]:
        """Return every hierarchy: an engine makes a parent in those that we do not read, too."""
        return list(dict.fromkeys(self.layout.roots.values()))

    def _measured(self) -> list[str]:
        if self.layout.version == 2:  # noqa: PLR2004 - a version
            return self._roots()
        roots = self.layout.roots
        return list(dict.fromkeys(roots[name] for name in MEASURING if name in roots))

    def _prepare(self, parent: str) -> None:
        """Make a group in which groups are made, and let it hand down what is measured."""
        if not self._measured():
            raise FileNotFoundError(2, "no control groups are mounted here")
        for root in self._measured():
            os.makedirs(root + parent, 0o755, exist_ok=True)  # noqa: PTH103
            if self.layout.version == 1:
                # Kernels before 5.11 count a group's children in it only if told so beforehand.
                _write(f"{root}{parent}/memory.use_hierarchy", "1")
                continue
            walked = ""
            for step in ("", *parent.strip("/").split("/")):
                walked += f"/{step}" if step else ""
                for controller in ENABLED:
                    _write(f"{root}{walked}/cgroup.subtree_control", controller)


def _texts(folder: str, names: tuple[str, ...]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for name in names:
        with contextlib.suppress(OSError), open(f"{folder}/{name}", "rb", 0) as file:  # noqa: PTH123
            texts[name] = file.read().decode("ascii", "replace")
    return texts


def _write(path: str, text: str) -> None:
    """Set a value; one that the kernel does not have or does not allow is done without."""
    with contextlib.suppress(OSError):
        file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)  # and never makes one
        try:
            os.write(file, text.encode())
        finally:
            os.close(file)


def _remove(place: str) -> bool:
    try:
        os.rmdir(place)  # noqa: PTH106
    except FileNotFoundError:
        return True
    except OSError:
        # Busy: a process, or an empty group of a container whose runtime was killed.
        if not _remove_below(place):
            return False
        with contextlib.suppress(FileNotFoundError):
            try:
                os.rmdir(place)  # noqa: PTH106
            except OSError:
                return False
    return True


def _remove_below(place: str) -> bool:
    with contextlib.suppress(OSError), os.scandir(place) as entries:
        below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        return bool(below) and False not in [_remove(path) for path in below]
    return False
