"""Where `--work memory` makes work directories, and when it does not."""

import logging
import os
from pathlib import Path

import pytest

from scalebox_actors.cli import memory
from scalebox_actors.cli.host import Host, work_base
from scalebox_actors.cli.memory import memory_base, memory_place
from scalebox_actors.errors import NotPermitted


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is taken for memory with room, on a host where nobody logs out."""
    monkeypatch.setattr(memory, "_is_memory", lambda place: place == tmp_path / "shm")
    monkeypatch.setattr(memory, "MEMORY_WORK", 0)
    monkeypatch.setattr(memory, "LOGIND", tmp_path / "no-logind")
    (tmp_path / "shm").mkdir()
    return tmp_path / "shm"


def test_every_store_has_a_place_of_its_own_that_no_other_user_enters(
    shared: Path, tmp_path: Path
) -> None:
    """Two nodes of a host never meet in memory; a node that comes back finds its runs."""
    one, other = (memory_base(tmp_path / name, shared=shared) for name in ("one", "other"))

    assert one != other
    assert one.parent == other.parent == shared / f"sbx-{os.getuid()}"
    assert one.parent.stat().st_mode & 0o777 == 0o700
    assert memory_base(tmp_path / "one", shared=shared) == one


def test_a_place_in_memory_can_be_told_without_being_made(shared: Path, tmp_path: Path) -> None:
    """The doctor looks at what a node would use, and leaves nothing behind."""
    told = memory_place(tmp_path / "one", shared=shared)

    assert list(shared.iterdir()) == []
    assert told == memory_base(tmp_path / "one", shared=shared)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(("MEMORY_WORK", 1 << 62, "wanted"), id="no-room"),
        pytest.param(("_is_memory", lambda _: False, "is no memory"), id="a-disk"),
    ],
)
def test_where_it_is_not_safe_they_lie_in_the_store_and_it_is_said(
    shared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    case: tuple[str, object, str],
) -> None:
    """Too little room, or no memory at all: on disk, with the reason in the log."""
    name, value, why = case
    monkeypatch.setattr(memory, name, value)
    with caplog.at_level(logging.WARNING):
        base = memory_base(tmp_path / "store", shared=shared)

    assert base == tmp_path / "store" / "work"
    assert [why in vars(record)["why"] for record in caplog.records] == [True]


def test_what_a_user_leaves_at_the_logout_is_not_laid_there(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logind removes a user's files in memory when the last session ends, under running work."""
    monkeypatch.setattr(memory, "LOGIND", tmp_path)
    monkeypatch.setattr(memory, "LINGER", tmp_path / "linger")
    monkeypatch.setattr(memory, "SYSTEM_USERS", 0)

    assert memory_base(tmp_path / "store", shared=shared) == tmp_path / "store" / "work"


def test_one_that_is_there_is_used_though_there_is_no_room_any_more(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs that outlived their node want to be adopted where they are."""
    before = memory_base(tmp_path / "store", shared=shared)
    monkeypatch.setattr(memory, "MEMORY_WORK", 1 << 62)

    assert memory_base(tmp_path / "store", shared=shared) == before


def test_a_place_that_others_may_write_to_is_refused(shared: Path, tmp_path: Path) -> None:
    """/dev/shm is everybody's: what another user has laid there for us is not trusted."""
    (shared / f"sbx-{os.getuid()}").mkdir(mode=0o777)
    (shared / f"sbx-{os.getuid()}").chmod(0o777)

    with pytest.raises(NotPermitted, match="writable by no one else"):
        memory_base(tmp_path / "store", shared=shared)


def test_the_option_means_memory_and_not_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--work memory` is the word; `--work ./memory` is the folder."""
    monkeypatch.setattr(memory, "_is_memory", lambda _: False)
    with work_base(Host(work="memory"), tmp_path) as base:
        assert base == tmp_path / "work"
    with work_base(Host(work="./memory"), tmp_path) as base:
        assert base == Path("memory")
