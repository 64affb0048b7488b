"""Where mounts really lead: the part of a container's spec that only the file system can check.

A link that is swapped between this check and the engine's own look can still lead elsewhere: the
directories below an operator's root must not be writable by people who may not see the host.
"""

import os
from collections.abc import Iterable

import msgspec

from scalebox_actors.errors import NotPermitted
from scalebox_actors.spec import Mount

SYSTEM = (
    *("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/run", "/sbin"),
    *("/sys", "/usr", "/var/lib/containerd", "/var/lib/containers", "/var/lib/docker", "/var/run"),
)
HARMLESS = ("/dev/shm",)  # noqa: S108 - Scalebox's memory scratch, named and not used


def real_mounts(mounts: Iterable[Mount], guarded: Iterable[str] = ()) -> tuple[Mount, ...]:
    """Return mounts with their real sources; raises NotPermitted for one that leaves its root.

    `guarded`: paths that no mount may reach, besides those of the system. Blocks.
    """
    paths = tuple(guarded)
    return tuple(mount if mount.ours else _real(mount, paths) for mount in mounts)


def check_root(path: str, guarded: Iterable[str] = ()) -> str:
    """Return the real path of a directory that may be mounted, or raise NotPermitted. Blocks."""
    real = os.path.realpath(path)
    if not os.path.isdir(real):  # noqa: PTH112
        raise NotPermitted(f"{path}: no such directory to mount")
    if any(_inside(real, place) for place in HARMLESS):
        return real
    for place in (*SYSTEM, *guarded):
        true_place = os.path.realpath(place)
        if _inside(real, place) or _inside(real, true_place):
            raise NotPermitted(f"{path}: {place} belongs to the system and is never mounted")
        if _inside(true_place, real):
            raise NotPermitted(f"{path}: it contains {place}, which is never mounted")
    return real


def _real(mount: Mount, guarded: tuple[str, ...]) -> Mount:
    real = check_root(mount.source, guarded)
    if mount.root and not _inside(real, os.path.realpath(mount.root)):
        raise NotPermitted(f"mount {mount.source}: its real path leaves the root {mount.root}")
    return msgspec.structs.replace(mount, source=real)


def _inside(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")
