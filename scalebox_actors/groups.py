"""Looks after the groups of a gathering module: lets go those whose time is up, tidies behind.

Several nodes may do this at once: every change is a compare-and-set, the loser finds that the
group has moved and leaves it alone.
"""

import logging
from collections.abc import Iterable

import msgspec

from scalebox_actors import gather
from scalebox_actors.effects import Scribe
from scalebox_actors.errors import BadMessage
from scalebox_actors.journal import Counts
from scalebox_actors.message import Message
from scalebox_actors.names import digest
from scalebox_actors.policy import Bury, Reason
from scalebox_actors.ports import Broker, Entry, Stored
from scalebox_actors.topology.model import Module

log = logging.getLogger(__name__)


class OpenGroup(msgspec.Struct, frozen=True, kw_only=True):
    """A group that still waits for members."""

    module: str
    key: str
    count: int
    need: int
    opened: float


class Groups:
    """The groups of one gathering module."""

    def __init__(self, module: Module, broker: Broker, scribe: Scribe, counts: Counts) -> None:
        self._module = module
        self._broker = broker
        self._scribe = scribe
        self._tally = counts

    async def open(self) -> list[OpenGroup]:
        """Return the groups that still wait for members, oldest first."""
        counts = await self._counts()
        groups = [gather.decode(stored.body) for stored in counts.values()]
        return [
            OpenGroup(module=g.module, key=g.key, count=g.count, need=g.need, opened=g.opened)
            for g in sorted(groups, key=lambda group: group.opened)
            if not g.released
        ]

    async def sweep(self) -> None:
        """Let go or bury the groups whose time is up, and purge counts that were replaced."""
        counts = await self._counts(purge=True)
        wait = self._module.gather.timeout if self._module.gather else None
        if wait is None or not counts:
            return
        now = await self._broker.clock()
        for stored in counts.values():
            group = gather.decode(stored.body)
            if not group.released and group.opened + wait <= now:
                await self._time_is_up(group, stored)

    async def _counts(self, *, purge: bool = False) -> dict[str, Stored]:
        """Return each group's newest count by its subject."""
        pattern = self._broker.names.group(self._module.name, "*")
        newest: dict[str, Stored] = {}
        replaced: set[str] = set()
        for stored in await self._broker.read_all(pattern):
            if stored.subject in newest:
                replaced.add(stored.subject)
            try:
                gather.decode(stored.body)
            except BadMessage as error:
                log.warning(
                    "group_unreadable", extra={"subject": stored.subject, "why": str(error)}
                )
                continue
            newest[stored.subject] = stored
        for subject in replaced if purge else ():
            await self._broker.purge(subject, keep=1)
        return newest

    async def _time_is_up(self, group: gather.Group, stored: Stored) -> None:
        rules = self._module.gather
        least = group.need if rules is None or rules.min_ok is None else rules.min_ok
        names, remember = self._broker.names, self._scribe.topology.remember
        count, joined = gather.release(names, group, stored, remember=remember)
        enough = group.count >= least
        entries: Iterable[Entry] = (count, joined)
        if not enough:
            entries = (*self._burial(group, joined), count)
        # Killed here, nothing was stored and the next sweep does it. A conflict means that a
        # member came or another node was quicker: the group is looked at again next time.
        if await self._broker.write(tuple(entries)) is None:
            self._tally.dead += not enough
            event = "group_released" if enough else "group_dead"
            log.warning(event, extra={"group": group.key, "have": group.count, "need": group.need})

    def _burial(self, group: gather.Group, joined: Entry) -> tuple[Entry, ...]:
        token = digest("gather", group.module, group.key)
        message = Message(
            module=group.module,
            id=token,
            body=joined.body,
            root=group.root or token,
            joined=token,
        )
        text = f"group {group.key!r}: {group.count} of {group.need} members came in time"
        effects = self._scribe.dead(message, Bury(Reason.INCOMPLETE, text))
        return (effects.record, *effects.outputs)
