"""The files of a slot: a work directory that outlives a message, and the door beside it.

The work directory may be written by what runs in the slot, so whatever lies there under a name
that we write is removed first and never followed. Everything here blocks.
"""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

import msgspec

from scalebox_actors.contract import READ_FILES, render_batch_jsonl, render_batch_txt
from scalebox_actors.launch.workdir import OWNER, WorkDir
from scalebox_actors.message import Message
from scalebox_actors.trees import remove_at

DOOR = "door"
_BATCH = ("batch-tasks.jsonl", "batch-tasks.txt")
_OLDER = ("input-messages.txt", "task-body.txt", "key-text.txt")
_CLEARED = frozenset({*READ_FILES, "body", "headers.json", *_BATCH, *_OLDER})
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_encode = msgspec.json.Encoder().encode


def make(directory: WorkDir, owner: str) -> Path:
    """Make a slot's work directory, and return where its door is to be."""
    directory.parent.mkdir(parents=True, mode=0o700)
    (directory.parent / OWNER).write_text(owner, "utf-8")
    directory.path.mkdir(mode=0o700)
    directory.path.chmod(0o777)  # any image user; the parent is 0700
    return directory.parent / DOOR


def inputs(message: Message, members: tuple[Message, ...]) -> dict[str, bytes]:
    """Return the files that a run finds in its work directory."""
    files = {"body": message.body, "headers.json": _encode(message.contract_headers)}
    if members:
        tasks = [(m.id, m.body, m.contract_headers) for m in members]
        files |= {_BATCH[0]: render_batch_jsonl(tasks), _BATCH[1]: render_batch_txt(tasks)}
    return files


def refill(path: Path, files: Mapping[str, bytes]) -> None:
    """Remove the interface files of the last run and write those of the next; others stay."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for name in _CLEARED.intersection(os.listdir(folder)):  # noqa: PTH208 - names alone
            if name not in files or not _is_ours(folder, name):
                remove_at(folder, name)
        for name, data in files.items():
            with open(os.open(name, _WRITE, 0o644, dir_fd=folder), "wb") as file:  # noqa: PTH123
                os.fchmod(file.fileno(), 0o644)  # any image user, whatever the umask says
                file.write(data)
                file.truncate()
    finally:
        os.close(folder)


def _is_ours(folder: int, name: str) -> bool:
    """Whether a file is one that we wrote and that goes by no other name: it is written over.

    That is quicker than making it anew, and nothing runs in the slot that could swap it now.
    """
    facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
    regular = stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1
    return regular and facts.st_uid == os.geteuid()
