"""What the shepherd wants of the kernel: mounts, a mount namespace, small files.

Standard library only, as everything the shepherd is made of.
"""

import ctypes
import os

MS_NODEV, MS_REC, MS_SLAVE = 0x4, 0x4000, 0x80000
MNT_DETACH = 2
CLONE_NEWNS = 0x20000
PR_SET_CHILD_SUBREAPER = 36
HIDDEN = "/sys/fs/cgroup/unified"
"""The cgroup2 part of a hybrid hierarchy, which crun refuses to see."""

_libc = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """Make orphaned descendants our children."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def enter_mount_namespace() -> None:
    """See the host's mounts, also later ones, and show it none of ours; they end with us."""
    _check(_libc.unshare(CLONE_NEWNS), "unshare")
    mount("none", "/", "", MS_REC | MS_SLAVE)
    if os.path.ismount(HIDDEN):
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
