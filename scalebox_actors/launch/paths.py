"""Paths that programs tell us of: where they lie on the host, and which of them may be deleted.

A program may write where they lead, and another one beside it: no link on the way is followed.
Everything here blocks; callers run it in a thread.
"""

import os
from collections.abc import Iterable, Sequence

import msgspec

from scalebox_actors.spec import Mount
from scalebox_actors.trees import remove_at, standing_in


class Place(msgspec.Struct, frozen=True):
    """Where something lies on the host: names, from a directory that no program can exchange."""

    root: str
    names: tuple[str, ...]


class Paths(msgspec.Struct, frozen=True, kw_only=True):
    """How paths inside a container correspond to paths on the host."""

    work: str
    """The work directory on the host."""
    work_inside: str
    mounts: tuple[Mount, ...] = ()

    def place(self, path: str) -> Place | None:
        """Return where `path` lies on the host; None if it died with the container."""
        inside = os.path.normpath(path)
        if not self.work_inside:  # nothing is isolated: the program sees what we see
            folder, name = os.path.split(inside)
            return Place(folder or ".", (name,) if name else ())
        for mount in (*self.mounts, Mount(source=self.work, target=self.work_inside)):
            names = _below(inside, mount.target)
            if names is not None:
                return Place(mount.source, names)
        return None


def remove_declared(paths_to_remove: Iterable[str], paths: Paths) -> list[str]:
    """Delete what a program declared as removable and return what was refused, with reasons.

    Only paths strictly below the work directory or a writable mount are deleted, and only if
    they lead there through no link; a mount itself never is, and of a link the link itself.
    """
    roots = [paths.work, *(mount.source for mount in paths.mounts if mount.writable)]
    roots += map(os.path.realpath, roots[:])
    refused = []
    for text in paths_to_remove:
        place = _writable(paths.place(text), roots)
        if place is None:
            refused.append(f"{text}: not below a writable mount, left alone")
            continue
        try:
            with standing_in(place.root, place.names[:-1]) as folder:
                remove_at(folder, place.names[-1])
        except FileNotFoundError:
            continue
        except NotADirectoryError:
            refused.append(f"{text}: its way leads through a link or a file, left alone")
        except OSError as error:
            refused.append(f"{text}: {error.strerror}")
        except ValueError as error:
            refused.append(f"{text!r}: {error}")
    return refused


def _writable(place: Place | None, roots: Sequence[str]) -> Place | None:
    """Return a place as it lies below the nearest root that may be written; None below none."""
    if place is None:
        return None
    host = os.path.join(place.root, *place.names)  # noqa: PTH118 - text, as it was told
    found = [Place(root, names) for root in roots if (names := _below(host, root))]
    return min(found, key=lambda one: len(one.names), default=None)


def _below(path: str, folder: str) -> tuple[str, ...] | None:
    """Return the names by which one leads to the other; None if it does not."""
    folder = folder.rstrip("/")
    if path != folder and not path.startswith(folder + "/"):
        return None
    return tuple(filter(None, path[len(folder) :].split("/")))
