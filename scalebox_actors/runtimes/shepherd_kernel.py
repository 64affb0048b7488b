"""What the shepherd wants of the kernel: namespaces, mounts, small files.

Standard library only, as everything the shepherd is made of.
"""

import ctypes
import os
from functools import cache

from scalebox_actors.runtimes.cgroup_files import put

MS_NODEV, MS_REC, MS_SLAVE = 0x4, 0x4000, 0x80000
MNT_DETACH = 2
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
PR_SET_CHILD_SUBREAPER = 36
GROUPS = "/sys/fs/cgroup"
HIDDEN = f"{GROUPS}/unified"
"""The cgroup2 part of a hybrid hierarchy, which crun refuses to see."""
EVERYBODY = ["0", "0", "4294967295"]
"""How the users of the first user namespace are mapped."""

_libc = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """Make orphaned descendants our children."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def enter_user_namespace(member: int = 0) -> None:
    """Be root where this user is the only one there is: in a new namespace, or in a process's.

    Whoever has a namespace made by this user may do everything there, and nothing more outside.
    """
    if member:
        joined = os.open(f"/proc/{member}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_libc.setns(joined, CLONE_NEWUSER), "setns")
        finally:
            os.close(joined)
        return
    user, group = os.getuid(), os.getgid()
    _check(_libc.unshare(CLONE_NEWUSER), "unshare")
    put("/proc/self/setgroups", "deny")
    put("/proc/self/uid_map", f"0 {user} 1")
    put("/proc/self/gid_map", f"0 {group} 1")


@cache
def in_user_namespace() -> bool:
    """Whether this process's root is not the host's."""
    return read_text("/proc/self/uid_map").split() != EVERYBODY


def enter_mount_namespace() -> None:
    """See the host's mounts, also later ones, and show it none of ours; they end with us."""
    _check(_libc.unshare(CLONE_NEWNS), "unshare")
    mount("none", "/", "", MS_REC | MS_SLAVE)
    if not os.path.ismount(HIDDEN):
        return
    if in_user_namespace():  # what came from outside cannot be taken away here, only covered
        mount("none", GROUPS, "tmpfs", MS_NODEV, "mode=755")
    else:
        unmount(HIDDEN)


def mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    """Mount a file system; raises OSError that names the target."""
    encoded = [os.fsencode(text) for text in (source, target, kind)]
    _check(_libc.mount(*encoded, ctypes.c_ulong(flags), os.fsencode(data)), target)


def unmount(target: str) -> None:
    """Take a mount away, also one that is still in use; raises OSError that names it."""
    _check(_libc.umount2(os.fsencode(target), MNT_DETACH), target)


def sync_file_system(path: str) -> None:
    """Write everything of the file system that `path` lies on to its disk."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _check(_libc.syncfs(folder), path)
    finally:
        os.close(folder)


def read_text(path: str, most: int = 65_536) -> str:
    """Return the beginning of a file, or nothing if it cannot be read.

    With the three system calls that it takes: this is done many times for every run.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(file, most).decode("utf-8", "replace")
    except OSError:
        return ""
    finally:
        os.close(file)


def _check(answer: int, what: str) -> None:
    if answer != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
