"""Lock files: one holder at a time, who is told of, and nothing left of one that was killed."""

import errno
import fcntl
import os
import socket
import time
from pathlib import Path

import pytest
from unit.holders import holding

from scalebox_actors.lockfile import HeldError, Holder, is_held, take

HOLD = """
import sys, time
from pathlib import Path
from scalebox_actors.lockfile import take
take(Path(sys.argv[1]), patience=0)
print("held", flush=True)
time.sleep(60)
"""
LEFT = """
import os, sys, time
from pathlib import Path
from scalebox_actors.lockfile import take
take(Path(sys.argv[1]), patience=0)
if os.fork():
    os._exit(0)
print("held", flush=True)
sys.stdin.read()
"""
PATIENCE = 15.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the lock file is to be."""
    return tmp_path / "lock"


def test_a_second_holder_is_refused_and_told_who_the_first_is(path: Path) -> None:
    """Also within one process."""
    lock = take(path, patience=PATIENCE)
    with pytest.raises(HeldError) as caught:
        take(path, patience=PATIENCE)
    os.close(lock)

    assert caught.value.holder == Holder(str(os.getpid()), socket.gethostname())
    assert str(caught.value) == f"process {os.getpid()}"


def test_a_lock_ends_with_its_descriptor(path: Path) -> None:
    """Nothing has to be removed, and the file tells of the next holder."""
    path.write_text("1234567 a-much-longer-name-of-another-host\n")
    os.close(take(path, patience=0))
    os.close(take(path, patience=0))

    assert path.read_text() == f"{os.getpid()} {socket.gethostname()}\n"


def test_whether_a_lock_is_held_can_be_asked(path: Path, tmp_path: Path) -> None:
    """Asking makes no file; where nobody may look, it is taken for held."""
    (tmp_path / "endless").symlink_to("endless")
    (tmp_path / "file").touch()
    asked = [is_held(path), path.exists(), is_held(tmp_path / "file/lock")]
    lock = take(path, patience=0)
    held = is_held(path)
    os.close(lock)

    assert asked == [False, False, False]
    assert held
    assert not is_held(path)
    assert is_held(tmp_path / "endless")


def test_the_lock_of_a_killed_process_is_free_at_once(path: Path) -> None:
    """Nobody waits for its end first, and no file of it is in the way."""
    with holding(HOLD, path) as holder:
        with pytest.raises(HeldError, match=f"process {holder.pid}"):
            take(path, patience=PATIENCE)
        holder.kill()
        os.close(take(path, patience=PATIENCE))


def test_what_an_ended_holder_left_is_waited_for(path: Path) -> None:
    """A child that has the lock lets go of it in time, or is told of as what was left."""
    with holding(LEFT, path) as holder:
        holder.wait()
        began = time.monotonic()
        with pytest.raises(HeldError, match=f"what process {holder.pid} has left"):
            take(path, patience=0.2)
        waited = time.monotonic() - began
        assert holder.stdin is not None
        holder.stdin.close()
        os.close(take(path, patience=PATIENCE))

    assert waited >= 0.2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("77 n07", "process 77 on n07", id="another-host"),
        pytest.param("4194305 ", "what process 4194305 has left", id="an-older-version"),
        pytest.param("", "another process", id="not-written-yet"),
        pytest.param("\0\0", "another process", id="nonsense"),
    ],
)
def test_the_holder_is_told_as_far_as_the_file_says(path: Path, text: str, told: str) -> None:
    """Whatever is in the file, a sentence is made of it."""
    lock = take(path, patience=0)
    path.write_text(text)
    with pytest.raises(HeldError) as caught:
        take(path, patience=0)
    os.close(lock)

    assert str(caught.value) == told


def test_a_lock_that_cannot_be_signed_is_held(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk the second one is refused as well, it only does not learn by whom."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    lock = take(path, patience=0)
    with pytest.raises(HeldError, match="another process"):
        take(path, patience=0)
    os.close(lock)


def test_a_file_system_without_locks_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says which file it is about, and no descriptor stays open."""

    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with pytest.raises(OSError, match="No locks available") as caught:
        take(path, patience=0)

    assert caught.value.filename == str(path)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
