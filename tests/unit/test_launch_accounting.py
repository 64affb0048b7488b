"""Bytes are counted by storage layer, believed where given, and 0 where nothing is there."""

from pathlib import Path

import pytest
from unit.digging import pit

from scalebox_actors.contract import FileEntry, Outputs
from scalebox_actors.launch import accounting
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


def test_nothing_is_measured_where_a_link_leads(tmp_path: Path) -> None:
    """Whether a file of the host is there, and how large it is, is none of a program's business."""
    outside, work = tmp_path / "outside", tmp_path / "work"
    for folder in (outside, work / "in"):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"12345")
    (work / "l").symlink_to(outside)
    (work / "in" / "l").symlink_to(outside)
    declared = ["/work/l/file", "/work/l/none", "/work/in/file", "/work/in", "/work/l", "/work/\0"]
    outputs = Outputs(input_files=tuple(FileEntry(path=path) for path in declared))

    moved = account(outputs, Paths(work=str(work), work_inside="/work"), "")

    assert moved.input_bytes == 5 + 5
    assert moved.warnings == [
        f"{path}: not found, counted as 0 bytes" for path in (*declared[:2], declared[-1])
    ]


def test_a_deep_directory_is_measured(tmp_path: Path) -> None:
    """One that is deeper than Python calls itself makes no task fail; the whole is the mount."""
    with pit(tmp_path / "work") as work:
        paths = Paths(work=str(work), work_inside="/work")
        moved = account(Outputs(output_files=(FileEntry(path="/work"),)), paths, "")

    assert (moved.output_bytes, moved.warnings) == (3, [])


def test_only_so_many_entries_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often a run declares its directories; the record says which were not counted."""
    monkeypatch.setattr(accounting, "MEASURED_ENTRIES", 5)
    for name in "abc":
        (tmp_path / name).write_bytes(b"x")
    paths = Paths(work=str(tmp_path), work_inside="/work")
    entry = FileEntry(path="/work")

    moved = account(Outputs(input_files=(entry, entry), output_files=(entry,)), paths, "")

    assert (moved.input_bytes, moved.output_bytes) == (5, 0)
    assert (
        moved.warnings
        == ["/work: the run's directories have more than 5 entries, the rest is not counted"] * 2
    )


def test_without_isolation_paths_are_those_of_the_host(tmp_path: Path) -> None:
    """A plain process sees what its node sees, and its links lead where it says."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_bytes(b"123")
    (tmp_path / "alias").symlink_to("real")
    outputs = Outputs(input_files=(FileEntry(path=f"{tmp_path}/alias/file"),))

    assert account(outputs, Paths(work="/none", work_inside=""), "").input_bytes == 3


def test_a_declared_total_counts_without_files(tmp_path: Path) -> None:
    """Without `input-files.txt` what task-exec declares is taken."""
    paths = Paths(work=str(tmp_path), work_inside="")

    assert account(Outputs(input_bytes=3), paths, "").input_bytes == 3
