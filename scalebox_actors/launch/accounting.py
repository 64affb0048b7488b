"""How many bytes a run moved, by storage layer, from what it declared. Blocks; runs in a thread."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

import msgspec

from scalebox_actors.contract import FileEntry, Outputs
from scalebox_actors.launch.paths import Paths

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
    for direction, files, declared in (
        ("input", outputs.input_files, outputs.input_bytes),
        ("output", outputs.output_files, outputs.output_bytes),
    ):
        measured = _measure(files, paths, warnings)
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


def _measure(
    entries: Iterable[FileEntry], paths: Paths, warnings: list[str]
) -> list[tuple[str, int]]:
    """Return each path with its bytes; a missing one counts 0 and warns."""
    measured = []
    for entry in entries:
        size = entry.bytes
        if size is None:
            size = _size(paths.on_host(entry.path))
        if size is None:
            warnings.append(f"{entry.path}: not found, counted as 0 bytes")
        measured.append((entry.path, size or 0))
    return measured


def _size(host: Path | None) -> int | None:
    """Return a file's size, or the sum of the regular files below a directory; None: not there."""
    if host is None:
        return None
    try:
        facts = host.lstat()
        if not stat.S_ISDIR(facts.st_mode):
            return facts.st_size if stat.S_ISREG(facts.st_mode) else 0
        return sum(
            _regular(Path(folder, name)) for folder, _, names in os.walk(host) for name in names
        )
    except OSError:
        return None


def _regular(path: Path) -> int:
    facts = path.lstat()
    return facts.st_size if stat.S_ISREG(facts.st_mode) else 0
