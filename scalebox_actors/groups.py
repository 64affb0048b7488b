"""Looks after the groups of a gathering module: lets go those whose time is up, tidies behind.

Several nodes may do this at once: every change is a compare-and-set, the loser finds that the
group has moved and leaves it alone.

A group's name is in use as long as its members are stored, and then until no record of its joined
task can be left: what comes under that name meanwhile is late.
"""

import logging
from collections.abc import AsyncIterator, Iterable

import msgspec

from scalebox_actors import gather
from scalebox_actors.effects import Scribe
from scalebox_actors.errors import BadMessage, Transient
from scalebox_actors.journal import Counts
from scalebox_actors.message import Message
from scalebox_actors.policy import Bury, Reason
from scalebox_actors.ports import Broker, Entry, Refused, Stored
from scalebox_actors.topology.model import Module

PAGE = 1_000
ID_WINDOW = 30.0
"""So long the server refuses a second joined message of a group; `remember` may be shorter."""
LONGER = 5.0
"""So much longer than the joined task's record its group stays closed."""

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
        self._start = 1

    @property
    def timed(self) -> bool:
        """Whether groups end by themselves when their time is up."""
        return self._module.gather is not None and self._module.gather.timeout is not None

    async def open(self) -> list[OpenGroup]:
        """Return the groups that still wait for members, oldest first."""
        found = []
        for stored in (await self._open_counts()).values():
            group = gather.decode(stored)
            found.append(
                OpenGroup(
                    module=group.module,
                    key=group.key,
                    count=group.count,
                    need=group.need,
                    opened=gather.opened_at(group, stored),
                )
            )
        return sorted(found, key=lambda group: group.opened)

    async def sweep(self) -> None:
        """Let go or bury the groups whose time is up, and purge counts that were replaced."""
        counts = await self._open_counts(purge=True)
        wait = self._module.gather.timeout if self._module.gather else None
        if wait is None or not counts:
            return
        now = await self._broker.clock()
        for stored in counts.values():
            group = gather.decode(stored)
            if gather.opened_at(group, stored) + wait <= now:
                await self._time_is_up(group, stored)

    async def _open_counts(self, *, purge: bool = False) -> dict[str, Stored]:
        """Return the newest count of each open group by its subject.

        Counts of groups that were let go stay for a while. Sweeps begin at the oldest count of an
        open group: what lies before it was let go, since a count only ever moves up, and what was
        replaced is purged.
        """
        newest: dict[str, Stored] = {}
        replaced: set[str] = set()
        after = self._start
        async for stored in self._counts(self._start):
            after = stored.sequence + 1
            if newest.pop(stored.subject, None) is not None:
                replaced.add(stored.subject)
            if not gather.decode(stored).released:
                newest[stored.subject] = stored
        if purge:
            for subject in replaced:
                await self._broker.purge(subject, keep=1)
            # Killed or failed before this, the next sweep finds them again.
            self._start = min((stored.sequence for stored in newest.values()), default=after)
        return newest

    async def _counts(self, start: int) -> AsyncIterator[Stored]:
        """Give every count that can be read, oldest first."""
        pattern = self._broker.names.group(self._module.name, "*")
        page: list[Stored] = []
        while not page or len(page) == PAGE:
            page = await self._broker.read_all(pattern, start=start, most=PAGE)
            for stored in page:
                start = stored.sequence + 1
                try:
                    gather.decode(stored)
                except BadMessage as error:
                    why = {"subject": stored.subject, "why": str(error)}
                    log.warning("group_unreadable", extra=why)
                else:
                    yield stored
            if not page:
                return

    async def _time_is_up(self, group: gather.Group, stored: Stored) -> None:
        rules = self._module.gather
        least = group.need if rules is None or rules.min_ok is None else rules.min_ok
        count, joined = gather.release(self._broker.names, group, stored)
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
        token = gather.token_of(group.module, group.key)
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


async def forget(broker: Broker, module: str, token: str, *, remember: float) -> bool:
    """Remove the members of a group that was let go, and let its name be free after `remember`.

    Safe to repeat, and to be done before the ack of the joined task. False if there is no count to
    be seen of a group that was let go: one that is open is not touched.
    """
    subject = broker.names.group(module, token)
    life = max(remember, ID_WINDOW) + LONGER
    # The count without a life lies below the one that gets it until the end. So whenever this is
    # killed, no earlier count is ever the newest again; whoever gets the joined message goes on.
    while True:
        stored = await broker.read(subject)
        if stored is not None and not _was_released(stored):
            return False
        await broker.purge(broker.names.member(module, token, "*"))
        if stored is None:  # an earlier version gave it a life, which has ended
            return False
        count = gather.closed(gather.decode(stored), stored, life=life)
        refusal = await broker.write([count])
        if refusal is None:
            break
        if refusal.kind is not Refused.CONFLICT:
            raise Transient(f"{subject}: {refusal.text}")
    await broker.purge(subject, keep=1)
    return True


def _was_released(stored: Stored) -> bool:
    try:
        return gather.decode(stored).released
    except BadMessage:
        return False
