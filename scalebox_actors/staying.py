"""Containers that stay: those that outlive a message or are there before it, and how they end."""

from collections.abc import Callable, Mapping
from typing import Protocol


class Staying(Protocol):
    """The part of a launcher that a node needs for containers that stay."""

    @property
    def states(self) -> Mapping[str, int]:
        """How many of them are in which state; empty if none stay."""

    @property
    def ends_runs(self) -> bool:
        """Whether `close` also ends what runs, and waits for that: nobody could adopt it.

        `run` then raises NotAdmitted for every task whose run has ended without an outcome.
        """

    def open(self) -> None:
        """Begin to make those that are there before a message; called once, when one may come."""

    def hold(self) -> None:
        """Let no task wait for what may never come: the node takes nothing more."""

    def holds(self, name: str) -> bool:
        """Whether a container, or a folder, is one that stays and is in use."""

    def watch_room(self, tell: Callable[[int], None]) -> None:
        """Have `tell` called with how many tasks may be in hand, when that is not the slots."""

    async def close(self) -> None:
        """End them; nothing runs any more that anybody waits for."""


class NothingStays:
    """For launchers that keep nothing between two messages."""

    @property
    def states(self) -> Mapping[str, int]:
        """There are none."""
        return {}

    @property
    def ends_runs(self) -> bool:
        """There is nothing to end."""
        return False

    def open(self) -> None:
        """Nothing is made before a message."""

    def hold(self) -> None:
        """Nothing waits."""

    def holds(self, name: str) -> bool:
        """No container stays."""
        del name
        return False

    def watch_room(self, tell: Callable[[int], None]) -> None:
        """Say nothing: a slot has room for one task."""

    async def close(self) -> None:
        """There is nothing to end."""
