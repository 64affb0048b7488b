"""The work directory of a run: made whole or not at all, read without following links.

Layout: `<base>/<run name>/<attempt>/` is what the program sees as `$WORK_DIR`. The base is ours
alone (0700); the work directory itself may be written by whatever user the image runs as. It is
prepared under another name and renamed into place, so one that exists is complete, and the
modification time of its parent says when it was prepared: no program can touch that.

Of a container that was started ahead the door lies beside it, and a note that says which task it
was given, and under which name: its labels were fixed before anybody knew.

Everything here blocks; callers run it in a thread.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from scalebox_actors import trees
from scalebox_actors.contract import READ_FILES, render_batch_jsonl, render_batch_txt
from scalebox_actors.errors import BadOutput
from scalebox_actors.launch.files import fill, overwrite, read_regular, rewrite, write_new
from scalebox_actors.launch.spares import INNER, INPUTS, Spares
from scalebox_actors.ports import Task

OWNER = ".owner"
"""The file beside the work directory that names the node it belongs to."""
NOTE = ".task"
"""The file beside it of a container that was started ahead: its task, and its name before."""
DOOR = "door"
"""The folder beside it by which the node talks with a container that was started ahead."""
OPENED = "run"
"""The file in the door that is there once the container was told to go on."""
GONE = ".gone."
"""Names in the base that begin so are on their way out: nobody needs them, whoever they were."""
_UNFINISHED = ".new"
_AROUND = frozenset({OWNER})
_READ = frozenset(READ_FILES)
_encode = msgspec.json.Encoder().encode


class WorkDir:
    """The directory of one attempt of one task, on the host."""

    def __init__(
        self,
        base: Path,
        run_name: str,
        attempt: int,
        owner: str = "",
        spares: Spares | None = None,
    ) -> None:
        self.name = run_name
        # Text and plain calls of the system: with `Path` they take longer than what they do.
        self._base = str(base)
        self._parent = f"{self._base}/{run_name}"
        self._path = f"{self._parent}/{attempt}"
        self._attempt = attempt
        self._owner, self._spares = owner, spares
        self._left: Path | None = None
        self._doorless = False
        """Whether it was made here, for no container that was started ahead."""

    @property
    def parent(self) -> Path:
        """The run's directory: ours alone."""
        return Path(self._parent)

    @property
    def path(self) -> Path:
        """What the program sees as its work directory."""
        return Path(self._path)

    def __str__(self) -> str:
        return self._path

    def exists(self) -> bool:
        """Whether it was prepared and is still there."""
        return os.path.isdir(self._path)  # noqa: PTH112

    @property
    def door(self) -> Path:
        """The folder by which the node talks with a container that was started ahead."""
        return self.parent / DOOR

    def is_known(self) -> bool:
        """Whether this or another attempt of the task has left something here."""
        return os.path.exists(self._parent)  # noqa: PTH110

    @property
    def container(self) -> str:
        """The container that the task was let into, as it was called before; else empty."""
        return note_of(self.parent).container if self.opened is not None else ""

    def has_door(self) -> bool:
        """Whether it was made for a container that was started ahead."""
        return os.path.isdir(f"{self._parent}/{DOOR}")  # noqa: PTH112

    @property
    def opened(self) -> float | None:
        """When a container that was started ahead was told to go on; None if it never was."""
        if self._doorless:
            return None
        try:
            return os.stat(f"{self._parent}/{DOOR}/{OPENED}").st_mtime  # noqa: PTH116
        except (FileNotFoundError, NotADirectoryError):
            return None

    def prepare(self, task: Task) -> None:
        """Make it anew with the task's input files; what an earlier run left is removed."""
        self._doorless = True
        if self._reuse(task):
            return
        try:
            os.mkdir(self._parent, 0o700)  # noqa: PTH102
        except (FileExistsError, FileNotFoundError):
            discard(self.parent)
            self.parent.mkdir(parents=True, mode=0o700)
        fresh = f"{self._parent}/{_UNFINISHED}"
        os.mkdir(fresh, 0o700)  # noqa: PTH102
        write_new(f"{self._parent}/{OWNER}", self._owner.encode())
        write_inputs(fresh, task)
        os.chmod(fresh, 0o777)  # noqa: PTH101, S103 - any image user; the parent is 0700
        os.rename(fresh, self._path)  # noqa: PTH104

    def _reuse(self, task: Task) -> bool:
        """Make it of one that was used before, if there is one. Its last name is given last."""
        spare = self._spares.take() if self._spares else None
        if self._spares is None or spare is None:
            return False
        try:
            inside = f"{spare}/{INNER}"
            write_inputs(inside, task, rewrite if self._spares.with_files else write_new)
            if inside != (wanted := f"{spare}/{self._attempt}"):
                os.rename(inside, wanted)  # noqa: PTH104
            os.utime(spare)
            _become(spare, self._parent)
        except OSError:  # the disk is full, or somebody took it away
            discard(Path(spare))
            return False
        return True

    def prepare_ahead(self) -> Path:
        """Make it for a container that waits for its task, with a door beside it; return that."""
        self._make(self.path)
        self.path.chmod(0o777)
        # Made now, where no program reaches, so that a message does not wait for it: on a disk a
        # new file costs more than what is written into it.
        for name in (NOTE, *(f".{name}" for name in (*INPUTS, OPENED))):
            (self.parent / name).touch(mode=0o666)
        self.door.mkdir()
        self.door.chmod(0o755)  # any image user, who sees it read-only
        return self.door

    def take_over(self, ahead: "WorkDir", task: Task) -> None:
        """Become the directory of a container that was started ahead, with the task's files.

        What is mounted follows: the container sees the files in its own directory.
        """
        parent = str(ahead.parent)
        write_inputs(str(ahead), task, lambda path, data: fill(parent, path, data))
        overwrite(f"{parent}/{NOTE}", f"{task.message.id}\n{ahead.name}".encode())
        inside = f"{parent}/{self._attempt}"
        if str(ahead) != inside:
            os.rename(str(ahead), inside)  # noqa: PTH104
        _become(parent, self._parent)

    def open_door(self, text: bytes) -> None:
        """Write down that the container is told to go on, and what it then executes."""
        path = f"{self._parent}/{DOOR}/{OPENED}"
        fill(self._parent, path, text)
        os.chmod(path, 0o644)  # noqa: PTH101 - any image user

    def _make(self, folder: Path) -> None:
        self.parent.mkdir(parents=True, mode=0o700)
        folder.mkdir(mode=0o700)
        (self.parent / OWNER).write_text(self._owner, "utf-8")

    def collect(self) -> dict[str, bytes]:
        """Return the bytes of those interface files that the program left.

        Raises BadOutput for one that is a link, a pipe, a directory or too large, and if the
        directory has gone.
        """
        found: dict[str, bytes] = {}
        try:
            paths = list(self.path.iterdir())
        except FileNotFoundError as error:  # there were outputs: see `has_outputs`
            raise BadOutput("the work directory has gone") from error
        except PermissionError as error:  # the program took its own directory from us
            raise BadOutput(f"the work directory cannot be read: {error.strerror}") from error
        for path in paths:
            if path.name in _READ:
                found[path.name] = read_regular(path, path.name)
        return found

    def has_outputs(self) -> bool:
        """Whether the program left any interface file."""
        try:
            return not _READ.isdisjoint(os.listdir(self._path))  # noqa: PTH208 - names alone
        except FileNotFoundError:
            return False
        except PermissionError:
            return True  # `collect` says what is wrong

    def remove(self) -> None:
        """Remove it with everything in it, also what has no permissions; safe to repeat."""
        discard(self.parent)
        if self._left is not None:
            trees.clear_tree(self._left)

    def remove_inputs(self) -> bool:
        """Remove it if nothing but our own input files is in it; False: `remove` has more to do.

        A few system calls, where a tree is walked and may be of any size. Killed in the middle,
        what is left has a name by which it is known as nobody's. If a further one can be of use,
        it is kept; see `Spares`.
        """
        spares = None if self.has_door() else self._spares
        spare = spares.reserve() if spares else None
        if spares is None or spare is None:
            return self._empty(f"{self._base}/{GONE}{time.time_ns()}.{self.name}")
        try:
            return self._empty(spare, spares)
        finally:
            spares.forget(spare)

    def _empty(self, gone: str, spares: Spares | None = None) -> bool:
        try:
            os.rename(self._parent, gone)  # noqa: PTH104
        except FileNotFoundError:
            return True
        inside = f"{gone}/{self._attempt}"
        try:
            if spares is None or not spares.with_files:
                _unlink_inputs(inside)
            if spares is not None:
                if inside != (wanted := f"{gone}/{INNER}"):
                    os.rename(inside, wanted)  # noqa: PTH104
                    inside = wanted
                if spares.put(gone, _AROUND):
                    return True
                if spares.with_files:
                    _unlink_inputs(inside)
            os.rmdir(inside)  # noqa: PTH106
            _remove_door(gone)
            os.unlink(f"{gone}/{OWNER}")  # noqa: PTH108
            os.rmdir(gone)  # noqa: PTH106
        except OSError:  # the program left something, or took something away
            self._left = Path(gone)
            return False
        return True


def write_inputs(
    folder: str, task: Task, write: Callable[[str, bytes], None] | None = None
) -> None:
    """Write the files that a program is given of its message."""
    message, write = task.message, write or write_new
    write(f"{folder}/body", message.body)
    write(f"{folder}/headers.json", _encode(message.contract_headers))
    if task.members:
        members = [(m.id, m.body, m.contract_headers) for m in task.members]
        write_new(f"{folder}/batch-tasks.jsonl", render_batch_jsonl(members))
        write_new(f"{folder}/batch-tasks.txt", render_batch_txt(members))


def _unlink_inputs(folder: str) -> None:
    for name in INPUTS:
        os.unlink(f"{folder}/{name}")  # noqa: PTH108


def discard(parent: Path) -> None:
    """Remove a run's directory. Killed in the middle, what is left is known as nobody's.

    So is what we may not remove: a container's root may leave folders that another user's node
    has no right to. No task waits for that; the reaper says how much of it there is.
    """
    try:
        gone = set_aside(parent)
    except FileNotFoundError:
        return
    trees.clear_tree(gone)


def set_aside(parent: Path) -> Path:
    """Rename a run's directory so that it is known as nobody's, and return what to remove."""
    return parent.rename(parent.with_name(f"{GONE}{time.time_ns()}.{parent.name}"))


def owner_of(parent: Path) -> str | None:
    """Return the node that made the work directory in `parent`; None if that cannot be told."""
    try:
        return (parent / OWNER).read_text("utf-8")
    except FileNotFoundError:
        return None


class Note(msgspec.Struct, frozen=True):
    """Which task a container was given after it was made, and what it was called before."""

    task: str = ""
    container: str = ""


def note_of(parent: Path) -> Note:
    """Return what a run's directory says of its container."""
    try:
        task, _, container = (parent / NOTE).read_text("utf-8").partition("\n")
    except (FileNotFoundError, NotADirectoryError):
        return Note()
    return Note(task, container)


def given_to(base: Path) -> dict[str, str]:
    """Return the runs that were let into containers started ahead, by those containers."""
    runs = {}
    for name in os.listdir(base):  # noqa: PTH208 - names alone
        parent = base / name
        if not name.startswith(".") and (parent / DOOR / OPENED).exists():
            runs[note_of(parent).container] = name
    return runs


def make_base(base: Path) -> Path:
    """Make the directory of work directories, ours alone, and return its absolute path."""
    base.mkdir(parents=True, exist_ok=True, mode=0o700)
    base.chmod(0o700)
    return base.resolve()


def _become(spare: str, parent: str) -> None:
    try:
        os.rename(spare, parent)  # noqa: PTH104
    except OSError:
        discard(Path(parent))
        os.rename(spare, parent)  # noqa: PTH104


def _remove_door(parent: str) -> None:
    door = f"{parent}/{DOOR}"
    try:
        names = os.listdir(door)  # noqa: PTH208 - names alone
    except FileNotFoundError:
        return
    for name in names:  # only the node could write there
        os.unlink(f"{door}/{name}")  # noqa: PTH108
    os.rmdir(door)  # noqa: PTH106
    Path(parent, NOTE).unlink(missing_ok=True)
