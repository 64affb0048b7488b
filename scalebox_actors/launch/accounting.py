"""How many bytes a run moved, by storage layer, from what it declared. Blocks; runs in a thread."""

from collections.abc import Iterable
from contextlib import closing

import msgspec

from scalebox_actors.contract import FileEntry, Outputs
from scalebox_actors.launch.paths import Paths, Place
from scalebox_actors.limits import MEASURED_ENTRIES
from scalebox_actors.trees import sizes_at, standing_in

MEMORY_PREFIX = "/dev/shm/"  # noqa: S108 - a layer to be told, not a place to write


class Accounting(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes read and written, their split by layer, and what could not be measured."""

    input_bytes: int
    output_bytes: int
    layers: dict[str, int]
    """`tmpfs_input`, `local_output`, …: the six classes of Scalebox, those that are not 0."""
    warnings: list[str]


def account(outputs: Outputs, paths: Paths, data_root: str) -> Accounting:
    """Measure the files that a run declared; a declared total counts where it named none."""
    split: dict[str, int] = {}
    warnings: list[str] = []
    totals = {}
    measure = _Measure(paths, warnings)
    for direction, files, declared in (
        ("input", outputs.input_files, outputs.input_bytes),
        ("output", outputs.output_files, outputs.output_bytes),
    ):
        measured = measure.take(files)
        for path, size in measured:
            key = f"{layer_of(path, data_root)}_{direction}"
            split[key] = split.get(key, 0) + size
        totals[direction] = sum(size for _, size in measured) if measured else declared or 0
    layers = {key: size for key, size in sorted(split.items()) if size}
    return Accounting(
        input_bytes=totals["input"],
        output_bytes=totals["output"],
        layers=layers,
        warnings=warnings,
    )


def layer_of(path: str, data_root: str) -> str:
    """Return the storage layer of a path as the program sees it: global, tmpfs or local."""
    root = data_root.rstrip("/")
    if root and (path == root or path.startswith(root + "/")):
        return "global"
    return "tmpfs" if path.startswith(MEMORY_PREFIX) else "local"


class _Measure:
    """Measures what a run declared, and looks at so many entries of directories in all."""

    def __init__(self, paths: Paths, warnings: list[str]) -> None:
        self._paths, self._warnings = paths, warnings
        self._left = MEASURED_ENTRIES

    def take(self, entries: Iterable[FileEntry]) -> list[tuple[str, int]]:
        """Return each path with its bytes; a missing one counts 0 and warns."""
        return [(entry.path, self._bytes(entry)) for entry in entries]

    def _bytes(self, entry: FileEntry) -> int:
        if entry.bytes is not None:
            return entry.bytes
        place = self._paths.place(entry.path)
        try:
            if place is not None:
                return self._below(place, entry.path)
        except (OSError, ValueError):  # it is not there, or a link leads elsewhere
            pass
        self._warnings.append(f"{entry.path}: not found, counted as 0 bytes")
        return 0

    def _below(self, place: Place, path: str) -> int:
        """Return a file's size, or the sum of the regular files below a directory."""
        total = 0
        with (
            standing_in(place.root, place.names[:-1]) as folder,
            closing(sizes_at(folder, place.names[-1] if place.names else ".")) as sizes,
        ):
            for size in sizes:
                if self._left <= 0:
                    self._warnings.append(
                        f"{path}: the run's directories have more than {MEASURED_ENTRIES:,}"
                        " entries, the rest is not counted"
                    )
                    break
                self._left -= 1
                total += size
        return total
