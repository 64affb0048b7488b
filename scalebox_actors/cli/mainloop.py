"""How a process runs that is a node and little else: its event loop, and its garbage collector."""

import gc
from collections.abc import Coroutine
from typing import Any, TypeVar

import uvloop

YOUNG = 10_000
"""So many objects more than before, and the collector looks for cycles among them. Those of a task
go by themselves; at Python's 700 a node spends a tenth of its time in looking at tasks in hand."""

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end on uvloop, and return what it returns."""
    gc.freeze()  # what has been imported stays: nobody need ever look at it
    gc.set_threshold(YOUNG)
    return uvloop.run(main)
