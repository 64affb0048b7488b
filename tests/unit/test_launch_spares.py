"""Work directories that are used again: complete, with nothing of the task before in them."""

import os
import shutil
import time
from pathlib import Path

import msgspec
import pytest
from unit.errand import MESSAGE

from scalebox_actors.launch import workdir
from scalebox_actors.launch.spares import MOST, PREFIX, Spares
from scalebox_actors.launch.workdir import WorkDir, make_base
from scalebox_actors.ports import Task


@pytest.fixture
def spares(tmp_path: Path) -> Spares:
    """The spares of a node."""
    return Spares(make_base(tmp_path / "base"), "t")


@pytest.fixture
def filed(tmp_path: Path) -> Spares:
    """The spares of a node whose programs nothing keeps apart: the message's files are kept."""
    return Spares(make_base(tmp_path / "base"), "t", with_files=True)


def directory_of(spares: Spares, name: str = "1", attempt: int = 1) -> WorkDir:
    """Return the work directory of a task."""
    return WorkDir(spares._base, f"sbx-t.m.{name}", attempt, "n1", spares)


def names(folder: Path) -> list[str]:
    """Return what a folder holds."""
    return sorted(path.name for path in folder.iterdir())


def inode(directory: WorkDir) -> int:
    """Return what tells a directory from another of its name."""
    return directory.path.stat().st_ino


def test_an_empty_work_directory_is_used_again(spares: Spares) -> None:
    """By the next task, with nothing of the last one in it, and as complete as a new one."""
    first, second = directory_of(spares), directory_of(spares, "2", attempt=3)
    first.prepare(Task(message=MESSAGE))
    used = inode(first)
    assert first.remove_inputs()
    assert not first.parent.exists()

    second.prepare(Task(message=msgspec.structs.replace(MESSAGE, body=b"")))

    assert inode(second) == used
    assert names(second.path) == ["body", "headers.json"]
    assert (second.path / "body").read_bytes() == b""
    assert second.path.stat().st_mode & 0o777 == 0o777
    assert workdir.owner_of(second.parent) == "n1"
    assert time.time() - second.parent.stat().st_mtime < 60


def test_what_a_program_keeps_open_is_no_file_of_the_next_task(spares: Spares) -> None:
    """Its file is another one, also if it has kept a second name of it."""
    first, second = directory_of(spares), directory_of(spares, "2")
    first.prepare(Task(message=MESSAGE))
    os.link(first.path / "body", spares._base / "kept")
    with (first.path / "body").open("r+b") as kept:
        assert first.remove_inputs()
        second.prepare(Task(message=MESSAGE))
        kept.write(b"forged")

    assert (second.path / "body").read_bytes() == MESSAGE.body


def spoil(kind: str, directory: WorkDir) -> None:
    """Leave a work directory as no other task may find it."""
    match kind:
        case "file":
            (directory.path / "left").touch()
        case "no-body":
            (directory.path / "body").unlink()
        case "mode":
            directory.path.chmod(0o700)
        case "sticky":
            directory.path.chmod(0o1777)
        case "attribute":
            os.setxattr(directory.path, "user.note", b"for the next one")
        case "beside":
            (directory.parent / "left").touch()
        case _:
            (directory.path / "deep" / "er").mkdir(parents=True)


@pytest.mark.parametrize(
    "kind", ["file", "no-body", "mode", "sticky", "attribute", "beside", "folder"]
)
@pytest.mark.parametrize("keeps", ["spares", "filed"])
def test_one_that_a_program_has_changed_is_not_used_again(
    keeps: str, kind: str, request: pytest.FixtureRequest
) -> None:
    """It is removed, with whatever is in it."""
    spares: Spares = request.getfixturevalue(keeps)
    first, second = directory_of(spares), directory_of(spares, "2")
    first.prepare(Task(message=MESSAGE))
    spoil(kind, first)
    if not first.remove_inputs():
        first.remove()

    assert names(spares._base) == []
    second.prepare(Task(message=MESSAGE))
    assert names(second.path) == ["body", "headers.json"]
    assert second.path.stat().st_mode & 0o7777 == 0o777


@pytest.mark.parametrize("body", [b"", b"x", b"x" * 70_000])
def test_kept_files_hold_the_next_message_alone(filed: Spares, body: bytes) -> None:
    """Whether it is longer or shorter than the one before, and what the program wrote there."""
    first, second, third = (directory_of(filed, name) for name in ("1", "2", "3"))
    for directory in (first, second):
        directory.prepare(Task(message=msgspec.structs.replace(MESSAGE, body=body)))
        with (directory.path / "headers.json").open("a") as file:
            file.write("more of the program's")
        assert directory.remove_inputs()

    third.prepare(Task(message=MESSAGE))

    assert names(third.path) == ["body", "headers.json"]
    assert (third.path / "body").read_bytes() == MESSAGE.body
    assert msgspec.json.decode((third.path / "headers.json").read_bytes())["k"] == "v"
    assert workdir.owner_of(third.parent) == "n1"


def test_kept_files_are_the_same_ones(filed: Spares) -> None:
    """Made once: that is what keeping them spares."""
    first, second = directory_of(filed), directory_of(filed, "2", attempt=2)
    first.prepare(Task(message=MESSAGE))
    used = (first.path / "body").stat().st_ino
    assert first.remove_inputs()

    second.prepare(Task(message=MESSAGE))

    assert (second.path / "body").stat().st_ino == used
    assert time.time() - second.parent.stat().st_mtime < 60


def tamper(kind: str, directory: WorkDir) -> None:
    """Leave the files of a message as no other message may be written into them."""
    body = directory.path / "body"
    match kind:
        case "second-name":
            os.link(body, directory.parent.parent / "kept")
        case "link":
            body.unlink()
            body.symlink_to(directory.parent.parent / "kept")
        case "pipe":
            body.unlink()
            os.mkfifo(body)
        case "large":
            body.write_bytes(b"x" * 100_000)
        case "attribute":
            os.setxattr(body, "user.note", b"for the next one")
        case _:
            body.chmod(0o755)


@pytest.mark.parametrize("kind", ["second-name", "link", "pipe", "large", "attribute", "mode"])
def test_files_that_a_program_has_changed_are_not_kept(filed: Spares, kind: str) -> None:
    """The next message is written into new ones."""
    first, second = directory_of(filed), directory_of(filed, "2")
    first.prepare(Task(message=MESSAGE))
    tamper(kind, first)
    if not first.remove_inputs():
        first.remove()
    assert not list(filed._base.glob(f"{PREFIX}*"))

    second.prepare(Task(message=msgspec.structs.replace(MESSAGE, body=b"another")))

    assert (second.path / "body").read_bytes() == b"another"
    if kind == "second-name":
        assert (filed._base / "kept").read_bytes() == MESSAGE.body


def test_a_spare_that_somebody_removed_is_not_missed(spares: Spares) -> None:
    """A new one is made."""
    first, second = directory_of(spares), directory_of(spares, "2")
    first.prepare(Task(message=MESSAGE))
    assert first.remove_inputs()
    shutil.rmtree(next(spares._base.glob(f"{PREFIX}*")))

    second.prepare(Task(message=MESSAGE))

    assert (second.path / "body").read_bytes() == MESSAGE.body
    assert not list(spares._base.glob(f"{PREFIX}*"))


def test_what_lies_in_its_place_goes(spares: Spares) -> None:
    """An earlier run of the same task left its directory: it does not leak into the next."""
    first, second = directory_of(spares), directory_of(spares, "2")
    for directory in (first, second):
        directory.prepare(Task(message=MESSAGE))
    (second.path / "sink-tasks.txt").write_text("half")
    assert first.remove_inputs()

    second.prepare(Task(message=MESSAGE))

    assert names(second.path) == ["body", "headers.json"]
    assert names(spares._base) == [second.name]


def test_only_so_many_are_kept_and_none_after_the_end(spares: Spares) -> None:
    """The node leaves nothing behind."""
    directories = [directory_of(spares, str(number)) for number in range(MOST + 5)]
    for directory in directories:
        directory.prepare(Task(message=MESSAGE))
    assert all(directory.remove_inputs() for directory in directories)
    assert len(names(spares._base)) == MOST
    assert all(spares.holds(name) for name in names(spares._base))

    spares.close()
    directories[0].prepare(Task(message=MESSAGE))
    assert directories[0].remove_inputs()

    assert names(spares._base) == []
