"""The names of nodes: on one host only one process at a time works under each.

By its name a node knows its containers and work directories again. One that starts removes what
an earlier life of it kept for messages to come, and goes on with the rest: if that life is not
over, the two take it from each other again and again.
"""

import errno
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from scalebox_actors.errors import Unavailable
from scalebox_actors.launch.workdir import make_base
from scalebox_actors.lockfile import HeldError, take

PATIENCE = 5.0
"""So long what a node that has ended was just starting may need to let go."""
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What file systems without locks say: NFS without its lock daemon, Lustre without `flock`."""

log = logging.getLogger(__name__)
_mine: set[int] = set()


@contextmanager
def held_names(base: Path, topology: str, names: Iterable[str]) -> Iterator[None]:
    """Have these names for nodes of a topology as long as the context lasts.

    Raises Unavailable, with what to do, if another process has one of them.
    """
    place = make_base(base)
    with ExitStack() as stack:
        for name in names:
            lock = _taken(place, topology, name)
            if lock is not None:
                _mine.add(lock)
                stack.callback(_close, lock)
        yield


def lock_path(base: Path, topology: str, name: str) -> Path:
    """Return the lock file of a node; neither of the names can have a dot.

    The site is no part of it: nobody asks for the site of what a node has on its host.
    """
    return base / f"node.{topology}.{name}.lock"


def _taken(base: Path, topology: str, name: str) -> int | None:
    """Take a name; None, with a warning, where the file system has no locks."""
    try:
        return take(lock_path(base, topology, name), patience=PATIENCE)
    except HeldError as error:
        raise Unavailable(
            f"node {name} of topology {topology} is at work already, as {error.holder}, with "
            f"work directories in {base}; stop that one, or give this one another --name"
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        why = f"{base}: {error.strerror}; see to it that no second node has this name"
        log.warning("name_not_locked", extra={"node": name, "why": why})
        return None


def _close(lock: int) -> None:
    if lock in _mine:
        _mine.discard(lock)
        os.close(lock)


def _let_go() -> None:
    """Leave the names to the node alone: what a function forks may outlive it."""
    for lock in [*_mine]:
        _close(lock)


os.register_at_fork(after_in_child=_let_go)
