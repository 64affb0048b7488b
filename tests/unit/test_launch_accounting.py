"""Bytes are counted by storage layer, believed where given, and 0 where nothing is there."""

from pathlib import Path

import pytest

from scalebox_actors.contract import FileEntry, Outputs
from scalebox_actors.launch.accounting import account, layer_of
from scalebox_actors.launch.paths import Paths
from scalebox_actors.spec import Mount


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/data", "global"),
        ("/data/a", "global"),
        ("/database/a", "local"),
        ("/dev/shm/x", "tmpfs"),
        ("/dev/shmx", "local"),
        ("/scratch/x", "local"),
    ],
)
def test_a_path_has_a_layer(path: str, expected: str) -> None:
    """Below the data root is global, in memory is tmpfs, the rest is local."""
    assert layer_of(path, "/data/") == expected


def test_files_are_measured(tmp_path: Path) -> None:
    """A given size is believed, a folder counts its files, a missing path warns."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_bytes(b"12345")
    (tmp_path / "d" / "l").symlink_to("/etc/passwd")
    mount = Mount(source=str(tmp_path), target="/data")
    paths = Paths(work=str(tmp_path), work_inside="/work", mounts=(mount,))
    outputs = Outputs(
        input_files=(FileEntry(path="/elsewhere", bytes=10), FileEntry(path="/data/d")),
        output_files=(FileEntry(path="/work/gone"),),
        output_bytes=7,
    )

    moved = account(outputs, paths, "/data")

    assert (moved.input_bytes, moved.output_bytes) == (15, 0)
    assert moved.layers == {"global_input": 5, "local_input": 10}
    assert moved.warnings == ["/work/gone: not found, counted as 0 bytes"]


def test_a_declared_total_counts_without_files(tmp_path: Path) -> None:
    """Without `input-files.txt` what task-exec declares is taken."""
    paths = Paths(work=str(tmp_path), work_inside="")

    assert account(Outputs(input_bytes=3), paths, "").input_bytes == 3
