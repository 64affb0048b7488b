"""How a process runs that is a node and little else: its event loop, and its garbage collector."""

from collections.abc import Coroutine
from typing import Any, TypeVar

import uvloop

from scalebox_actors.garbage import look_less

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end on uvloop, and return what it returns."""
    look_less()
    return uvloop.run(main)
