"""The work directory: made whole, read without believing anything, removed whatever is in it."""

import os
from pathlib import Path

import msgspec
import pytest
from unit.digging import pit
from unit.errand import MESSAGE

from scalebox_actors import trees
from scalebox_actors.errors import BadOutput
from scalebox_actors.launch import workdir
from scalebox_actors.launch.paths import Paths, Place, remove_declared
from scalebox_actors.launch.slot_files import refill
from scalebox_actors.launch.workdir import WorkDir, make_base
from scalebox_actors.limits import OUTPUT_FILE_BYTES
from scalebox_actors.ports import Task
from scalebox_actors.spec import Mount


@pytest.fixture
def work(tmp_path: Path) -> WorkDir:
    """A prepared work directory."""
    directory = WorkDir(make_base(tmp_path / "base"), "sbx-t.m.1", 1)
    directory.prepare(Task(message=MESSAGE))
    return directory


def test_the_input_is_there(work: WorkDir) -> None:
    """The body byte for byte, the headers as JSON, writable by any image's user, under 0700."""
    assert (work.path / "body").read_bytes() == MESSAGE.body
    assert msgspec.json.decode((work.path / "headers.json").read_bytes()) == {
        "k": "v",
        "from_module": "a",
    }
    assert work.path.stat().st_mode & 0o777 == 0o777
    assert work.parent.parent.stat().st_mode & 0o777 == 0o700


def test_members_lie_beside_the_body(tmp_path: Path) -> None:
    """A joined task finds its members in the batch files."""
    directory = WorkDir(tmp_path, "run", 1)

    directory.prepare(Task(message=MESSAGE, members=(MESSAGE, MESSAGE)))

    assert len((directory.path / "batch-tasks.jsonl").read_text().splitlines()) == 2


def test_preparing_again_forgets_what_was_there(work: WorkDir) -> None:
    """What a lost run left does not leak into the next."""
    (work.path / "sink-tasks.txt").write_text("half")

    work.prepare(Task(message=MESSAGE))

    assert work.collect() == {}


def test_what_the_program_wrote_is_collected(work: WorkDir) -> None:
    """Interface files are read, others are not looked at."""
    (work.path / "sink-tasks.txt").write_bytes(b"a\n")
    (work.path / "other.dat").write_bytes(b"x")

    assert work.collect() == {"sink-tasks.txt": b"a\n"}


def test_outputs_of_a_work_directory_that_is_gone_are_not_none(tmp_path: Path) -> None:
    """Removed from outside it has no outputs; removed after a look at it, they would be lost."""
    gone = WorkDir(tmp_path, "run", 1)

    assert not gone.has_outputs()
    with pytest.raises(BadOutput, match="the work directory has gone"):
        gone.collect()


def irregular(kind: str, path: Path) -> None:
    """Make something at `path` that is no honest file."""
    match kind:
        case "link":
            path.symlink_to("/etc/passwd")
        case "dangling":
            path.symlink_to(path.parent / "nowhere")
        case "loop":
            path.symlink_to(path)
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "sparse":
            path.touch()
            os.truncate(path, 1 << 40)
        case _:
            path.write_bytes(b"\n" * (OUTPUT_FILE_BYTES + 1))


@pytest.mark.parametrize(
    "kind", ["link", "dangling", "loop", "pipe", "folder", "sparse", "too-large"]
)
def test_an_irregular_file_is_bad_output(work: WorkDir, kind: str) -> None:
    """Links, pipes, folders and giants are refused by name, quickly, without reading them."""
    irregular(kind, work.path / "sink-tasks.txt")

    with pytest.raises(BadOutput, match=r"^sink-tasks\.txt: "):
        work.collect()


def test_removal_takes_what_it_is_denied(work: WorkDir) -> None:
    """Folders without permissions and links to elsewhere do not stop a removal."""
    outside = work.parent.parent / "kept"
    outside.write_text("x")
    deep = work.path / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "file").touch()
    (deep / "link").symlink_to(outside)
    deep.chmod(0)
    (work.path / "a").chmod(0)

    work.remove()
    work.remove()

    assert not work.parent.exists()
    assert outside.read_text() == "x"


def test_a_deep_directory_stands_in_nobodys_way(work: WorkDir) -> None:
    """A program may leave one that is deeper than Python calls itself; it goes like any other."""
    with pit(work.path / "deep"):
        assert not work.remove_inputs()
        work.remove()

        assert list(work.parent.parent.iterdir()) == []


def test_a_slot_is_filled_anew_whatever_lies_in_it(tmp_path: Path) -> None:
    """Also a deep directory under a name of ours, which the next message's file has then."""
    with pit(tmp_path / "body") as body:
        refill(tmp_path, {"body": b"next"})

        assert body.read_bytes() == b"next"


def test_paths_inside_are_found_outside(tmp_path: Path) -> None:
    """A path below a mount lies below the mount's source; others died with the container."""
    mount = Mount(source="/srv/data", target="/data", writable=True)
    paths = Paths(work=str(tmp_path), work_inside="/work", mounts=(mount,))

    assert paths.place("/data/a/b") == Place("/srv/data", ("a", "b"))
    assert paths.place("/work/x") == Place(str(tmp_path), ("x",))
    assert paths.place("/database/x") is None
    assert paths.place("/data/../etc/passwd") is None


def test_a_long_text_is_cut_not_refused(work: WorkDir) -> None:
    """Of an auxout text that is too long the end is kept."""
    (work.path / "auxout.txt").write_bytes(b"a" * OUTPUT_FILE_BYTES + b"end")

    assert work.collect()["auxout.txt"].endswith(b"aend")


def test_only_what_may_be_written_is_removed(tmp_path: Path) -> None:
    """Declared files go only below the work directory or a writable mount, never a root itself."""
    for name in ("rw", "ro", "work"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").touch()
    (tmp_path / "rw" / "out").symlink_to(tmp_path / "ro")
    paths = Paths(
        work=str(tmp_path / "work"),
        work_inside="/work",
        mounts=(
            Mount(source=str(tmp_path / "rw"), target="/rw", writable=True),
            Mount(source=str(tmp_path / "ro"), target="/ro"),
        ),
    )

    refused = remove_declared(["/rw/f", "/ro/f", "/work/f", "/rw", "/", "/rw/out/f"], paths)

    assert not (tmp_path / "rw" / "f").exists()
    assert not (tmp_path / "work" / "f").exists()
    assert (tmp_path / "ro" / "f").exists()
    assert [line.partition(":")[0] for line in refused] == ["/ro/f", "/rw", "/", "/rw/out/f"]


def mounted(tmp_path: Path) -> Paths:
    """A work directory, and a mount that programs may write; beside them what is the host's."""
    for folder in ("rw/in/victim", "host/victim", "work"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "host" / "victim" / "precious").touch()
    mount = Mount(source=str(tmp_path / "rw"), target="/rw", writable=True)
    return Paths(work=str(tmp_path / "work"), work_inside="/work", mounts=(mount,))


def swap(tmp_path: Path) -> None:
    """Exchange a directory for a link, as another container with the same mount can."""
    (tmp_path / "rw" / "in").rename(tmp_path / "rw" / "was")
    (tmp_path / "rw" / "in").symlink_to(tmp_path / "host")


def test_nothing_is_removed_where_a_link_leads(tmp_path: Path) -> None:
    """Not on the host, and not in the mount either: of a link the link itself is removed."""
    paths = mounted(tmp_path)
    swap(tmp_path)
    (tmp_path / "work" / "here").symlink_to(tmp_path / "rw")

    refused = remove_declared(["/rw/in/victim", "/work/here/was", "/work/here"], paths)

    assert [line.partition(":")[0] for line in refused] == ["/rw/in/victim", "/work/here/was"]
    assert "through a link" in refused[0]
    assert (tmp_path / "host" / "victim" / "precious").exists()
    assert (tmp_path / "rw" / "was").exists()
    assert not (tmp_path / "work" / "here").is_symlink()


def test_a_directory_that_is_exchanged_for_a_link_leads_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was looked at is what is removed, whatever has its name by then."""
    paths = mounted(tmp_path)
    really = trees.remove_at

    def late(folder: int, name: str) -> None:
        swap(tmp_path)
        really(folder, name)

    monkeypatch.setattr("scalebox_actors.launch.paths.remove_at", late)
    refused = remove_declared(["/rw/in/victim"], paths)

    assert (tmp_path / "host" / "victim" / "precious").exists()
    assert not (tmp_path / "rw" / "was" / "victim").exists()
    assert refused == []


def test_a_path_that_is_none_is_refused(tmp_path: Path) -> None:
    """Whatever a program writes, the others are removed."""
    paths = mounted(tmp_path)

    refused = remove_declared(["/rw/\0", "/rw/none", "/rw/in"], paths)

    assert len(refused) == 1
    assert not (tmp_path / "rw" / "in").exists()


def test_without_isolation_paths_are_those_of_the_host(tmp_path: Path) -> None:
    """They are removed below what the run may write, also by the mount's real name."""
    mounted(tmp_path)
    (tmp_path / "alias").symlink_to("rw")
    mount = Mount(source=str(tmp_path / "alias"), target="/rw", writable=True)
    paths = Paths(work=str(tmp_path / "work"), work_inside="", mounts=(mount,))
    (tmp_path / "rw" / "file").touch()

    refused = remove_declared([f"{tmp_path}/{p}" for p in ("rw/in", "alias/file", "host")], paths)

    assert [line.partition(":")[0] for line in refused] == [f"{tmp_path}/host"]
    assert list((tmp_path / "rw").iterdir()) == []


def test_what_we_may_not_remove_stands_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders of a container's root, for a node of another user: set aside, the task goes on."""

    def refused(path: Path) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(trees, "remove_tree", refused)
    directory = WorkDir(make_base(tmp_path), "sbx-t.x", 1)
    for _ in range(3):
        directory.prepare(Task(message=MESSAGE))
        (directory.path / "left").mkdir()

    assert len(list(tmp_path.glob(f"{workdir.GONE}*"))) == 2
