"""Paths that programs tell us of: where they lie on the host, and which of them may be deleted.

Everything here blocks; callers run it in a thread.
"""

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from scalebox_actors.launch.trees import remove_tree
from scalebox_actors.spec import Mount


class Paths(msgspec.Struct, frozen=True, kw_only=True):
    """How paths inside a container correspond to paths on the host."""

    work: str
    """The work directory on the host."""
    work_inside: str
    mounts: tuple[Mount, ...] = ()

    def on_host(self, path: str) -> Path | None:
        """Return where `path` lies on the host; None if it died with the container."""
        if not self.work_inside:
            return Path(path)
        for mount in (*self.mounts, Mount(source=self.work, target=self.work_inside)):
            inside = os.path.normpath(path)
            target = mount.target.rstrip("/")
            if inside == target or inside.startswith(target + "/"):
                return Path(mount.source + inside[len(target) :])
        return None


def remove_declared(paths_to_remove: Iterable[str], paths: Paths) -> list[str]:
    """Delete what a program declared as removable and return what was refused, with reasons.

    Only paths strictly below the work directory or a writable mount are deleted, and only if
    their real place is there too; a mount itself never is.
    """
    allowed = [Path(os.path.realpath(m.source)) for m in paths.mounts if m.writable]
    allowed.append(Path(os.path.realpath(paths.work)))
    refused = []
    for text in paths_to_remove:
        host = paths.on_host(text)
        real = Path(os.path.realpath(host.parent)) / host.name if host is not None else None
        if real is None or not any(root in real.parents for root in allowed):
            refused.append(f"{text}: not below a writable mount, left alone")
            continue
        try:
            if real.is_dir() and not real.is_symlink():
                remove_tree(real)
            else:
                real.unlink(missing_ok=True)
        except OSError as error:
            refused.append(f"{text}: {error.strerror}")
    return refused
