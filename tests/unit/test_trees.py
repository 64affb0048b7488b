"""Trees that programs made: removed and measured, however deep, and nothing beside them."""

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from unit.digging import DEPTH, pit

from scalebox_actors import trees
from scalebox_actors.trees import remove_tree, sizes_at, standing_in


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """Let this process open a dozen files more, and no others."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 12, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def measured(path: Path) -> list[int]:
    """Return the sizes of what lies below a path."""
    with standing_in(str(path.parent)) as folder:
        return list(sizes_at(folder, path.name))


@pytest.mark.usefixtures("few_descriptors")
def test_a_deep_directory_is_removed(tmp_path: Path) -> None:
    """However deep, with few descriptors, and again if it is not there any more."""
    with pit(tmp_path / "deep") as deep:
        remove_tree(deep)
        remove_tree(deep)

        assert not deep.exists()


@pytest.mark.usefixtures("few_descriptors")
def test_a_deep_directory_is_measured(tmp_path: Path) -> None:
    """Each directory in it is an entry, too."""
    with pit(tmp_path / "deep") as deep:
        sizes = measured(deep)

    assert (len(sizes), sum(sizes)) == (DEPTH + 1, 3)


def test_wide_and_deep_goes_whole(tmp_path: Path) -> None:
    """Every directory of every level, also beside the one that was gone into."""
    top = tmp_path / "top"
    for way in ("a/b/c", "a/b/d/e", "a/f", "g/h/i", "g/h/k"):
        (top / way).mkdir(parents=True)
        (top / way / "file").write_text("x")

    assert sum(measured(top)) == 5
    remove_tree(top)
    assert not top.exists()


@pytest.mark.parametrize("mode", [0, 0o500, 0o300], ids=oct)
def test_what_is_withheld_is_granted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """A program may take every permission from its directories: they go all the same."""
    opened = os.open

    def denying(name: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        """Do to root what the system does to everybody else."""
        if flags == trees._ENTER and not os.stat(name, dir_fd=dir_fd).st_mode & 0o400:
            raise PermissionError(13, "Permission denied", name)
        return opened(name, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", denying)
    with pit(tmp_path / "deep", mode=mode, depth=3) as deep:
        remove_tree(deep)

        assert not deep.exists()


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    """What they lead to stays as it is, with its mode, and is not measured."""
    outside, top = tmp_path / "outside", tmp_path / "top"
    outside.mkdir(mode=0o500)
    top.mkdir()
    for name in ("one", "two"):
        (top / name).symlink_to(outside)
    (outside.parent / "file").write_text("12345")
    (top / "three").symlink_to(outside.parent / "file")

    assert sum(measured(top)) == 0
    remove_tree(top)
    assert not top.exists()
    assert outside.stat().st_mode & 0o777 == 0o500
    remove_tree(tmp_path / "no" / "such")


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_directory_is_removed(tmp_path: Path, kind: str) -> None:
    """A file and a link go by themselves."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path)
    remove_tree(tmp_path / kind)

    assert len(list(tmp_path.iterdir())) == 1


def test_what_cannot_be_removed_stays_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that a file server keeps: its directories stay, all else goes, and it is told."""
    held, unlink = tmp_path / "top" / "a" / "b", os.unlink
    held.mkdir(parents=True)
    for name in (".nfs1", "other"):
        (held / name).touch()
    (tmp_path / "top" / "c" / "d").mkdir(parents=True)

    def refusing(name: str, *, dir_fd: int | None = None) -> None:
        if name == ".nfs1":
            raise OSError(16, "Device or resource busy", name)
        unlink(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", refusing)
    with pytest.raises(OSError, match="busy"):
        remove_tree(tmp_path / "top")

    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert left == ["top", "top/a", "top/a/b", "top/a/b/.nfs1"]


def test_who_moves_directories_leads_nobody_elsewhere(tmp_path: Path) -> None:
    """Going up from a directory that was moved meanwhile is an error, not another directory."""
    (tmp_path / "top" / "a" / "b").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    with (
        standing_in(str(tmp_path)) as folder,
        contextlib.closing(trees._Walk(folder, grant=True)) as walk,
    ):
        for name in ("top", "a", "b"):
            walk.down(name)
        (tmp_path / "top" / "a" / "b").rename(tmp_path / "elsewhere" / "b")

        with pytest.raises(OSError, match="moved away"):
            walk.up()


def test_a_way_leads_through_no_link(tmp_path: Path) -> None:
    """But the root may be one: whoever named it is trusted."""
    (tmp_path / "real" / "in").mkdir(parents=True)
    (tmp_path / "root").symlink_to("real")
    (tmp_path / "real" / "link").symlink_to("in")
    with standing_in(str(tmp_path / "root"), ["in"]) as folder:
        found = os.fstat(folder).st_ino

    assert found == (tmp_path / "real" / "in").stat().st_ino
    with pytest.raises(NotADirectoryError), standing_in(str(tmp_path / "root"), ["link"]):
        pass
