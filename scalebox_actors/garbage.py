"""How often Python's garbage collector looks. Standard library only: a shepherd uses it, too."""

import gc

YOUNG = 10_000
"""So many objects more than before, and the collector looks for cycles among them. Those of a task
go by themselves; at Python's 700 a node spends a tenth of its time in looking at tasks in hand."""


def look_less() -> None:
    """Let the collector look less often, and never at what is there already: that stays."""
    gc.freeze()
    gc.set_threshold(YOUNG)
