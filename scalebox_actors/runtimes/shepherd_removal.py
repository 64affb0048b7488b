"""Removing what containers leave: a little at once, a lot in the background.

Standard library only, as everything the shepherd is made of.
"""

import contextlib
import os

MANY = 200
"""A writable part with more entries is removed by a process of its own."""


def remove(path: str) -> None:
    """Remove a directory with what is in it; a large one in the background."""
    if not _remove_small(path, [MANY]):
        argv = ["/bin/rm", "-rf", "--", path]
        with contextlib.suppress(OSError):  # else it goes with the state directory
            os.posix_spawn(argv[0], argv, {})


def _remove_small(path: str, left: list[int]) -> bool:
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                left[0] -= 1
                if left[0] < 0:
                    return False
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)  # noqa: PTH108
                elif not _remove_small(entry.path, left):
                    return False
        os.rmdir(path)  # noqa: PTH106
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
