"""Work directories in memory: where they lie, and whether that is safe on this host.

A work directory costs a dozen changes of the file system, and on the disk of a server that syncs
every write each of them may wait for a sync. In memory none does. It is the operator's choice,
since what programs write there then takes memory: nobody can tell how much that will be.
"""

import hashlib
import logging
import os
import pwd
from pathlib import Path

from scalebox_actors.errors import NotPermitted
from scalebox_actors.limits import MEMORY_WORK

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - what we make there is ours alone
SYSTEM_USERS = 1000
"""Users from here on may log out, and then logind removes what they have in memory."""
LOGIND = Path("/run/systemd/seats")
LINGER = Path("/var/lib/systemd/linger")

log = logging.getLogger(__name__)


def memory_base(store: Path, *, shared: Path = SHARED_MEMORY) -> Path:
    """Return where work directories of `store` lie in memory; on disk, and say why, if not safe.

    One that is there already is used in any case: what runs in it wants to be adopted.
    """
    base, mine = memory_place(store, shared=shared), _mine(shared)
    if base.is_dir() or base.parent != mine:
        return base
    mine.mkdir(mode=0o700, exist_ok=True)
    found = mine.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o022 or mine.is_symlink():
        raise NotPermitted(f"{mine} must belong to this user and be writable by no one else")
    base.mkdir(mode=0o700, exist_ok=True)
    return base


def memory_place(store: Path, *, shared: Path = SHARED_MEMORY) -> Path:
    """Return the same, and make nothing."""
    base = _mine(shared) / hashlib.sha256(os.fsencode(store.resolve())).hexdigest()[:16]
    why = "" if base.is_dir() else _unsafe(shared)
    if why:
        log.warning("work_on_disk", extra={"why": why})
        return store / "work"
    return base


def _mine(shared: Path) -> Path:
    return shared / f"sbx-{os.getuid()}"


def _unsafe(shared: Path) -> str:
    """Return why nothing should be laid down there, or nothing."""
    if not _is_memory(shared):
        return f"{shared} is no memory"
    room = os.statvfs(shared)
    free = room.f_bavail * room.f_frsize
    if free < MEMORY_WORK:
        return f"{shared} has {free} bytes free; {MEMORY_WORK} are wanted"
    if os.getuid() >= SYSTEM_USERS and LOGIND.exists() and not _lingers():
        return (
            "logind removes what a user has in memory at the logout; see `loginctl enable-linger`"
        )
    return ""


def _is_memory(place: Path) -> bool:
    lines = Path("/proc/mounts").read_text("utf-8").splitlines()
    return any(line.split()[1:3] == [str(place), "tmpfs"] for line in lines)


def _lingers() -> bool:
    try:
        return (LINGER / pwd.getpwuid(os.getuid()).pw_name).exists()
    except KeyError:  # a user without a name
        return False
