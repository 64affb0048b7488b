"""Control groups for what a run uses: CPU time, peak memory, bytes read and written.

Whoever runs something makes a group for it, has it run in there or in a group below, and reads
when it has ended: an engine removes a container's own group at its end, but the parent keeps the
sums. What the files of a group say is read by `cgroup_files.py`.
"""

import contextlib
import os
from collections.abc import Mapping

import msgspec

from scalebox_actors.runtimes.cgroup_files import V1, V2, Reading, hand_down, put, read_v1, read_v2

MEASURING = ("cpuacct", "memory", "blkio")
"""The hierarchies of version 1 that are read."""


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
            return read_v2(_texts(f"{root}{path}", V2))
        files: dict[str, str] = {}
        for controller, names in V1.items():
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
                with contextlib.suppress(OSError):
                    put(f"{root}{parent}/memory.use_hierarchy", "1")
                continue
            walked = ""
            for step in ("", *parent.strip("/").split("/")):
                walked += f"/{step}" if step else ""
                hand_down(f"{root}{walked}")


def _texts(folder: str, names: tuple[str, ...]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for name in names:
        with contextlib.suppress(OSError), open(f"{folder}/{name}", "rb", 0) as file:  # noqa: PTH123
            texts[name] = file.read().decode("ascii", "replace")
    return texts


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
