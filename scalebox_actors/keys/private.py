"""Files and folders that their owner alone may open."""

import os
from pathlib import Path

from scalebox_actors.errors import BadInput

_FILE, _FOLDER, _OTHERS = 0o600, 0o700, 0o077


def check_private(path: Path) -> None:
    """Raise BadInput if others than its owner may read or write a file or folder."""
    mode = path.stat().st_mode
    if mode & _OTHERS:
        wanted = _FOLDER if path.is_dir() else _FILE
        told = f"mode {mode & 0o777:o} lets others at it; `chmod {wanted:o}` it"
        raise BadInput(told, path=str(path))


def private_folder(folder: Path) -> None:
    """Make a folder for its owner alone; raises BadInput if others may open one that is there."""
    if folder.exists():
        check_private(folder)
    else:
        folder.mkdir(mode=_FOLDER, parents=True)
        folder.chmod(_FOLDER)  # whatever the umask says


def write_private(path: Path, data: bytes) -> None:
    """Write a file that nobody else can ever open, and that is never there in part."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _FILE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    part.replace(path)
