"""What operators do to what was set aside: send it again, drop it; and set aside what waits.

Each is safe to repeat after a crash in the middle: the record is written before what depends on
it, and what is sent again gets the same id every time.
"""

from collections.abc import AsyncIterator, Sequence

import msgspec

from scalebox_actors.broker import JetStreamBroker
from scalebox_actors.crossing import CARRIED
from scalebox_actors.effects import DETAIL, LOG_TAIL, Scribe
from scalebox_actors.errors import BadMessage, SbxError, Transient
from scalebox_actors.groups import forget
from scalebox_actors.limits import HOPS_CEILING
from scalebox_actors.local import Site
from scalebox_actors.message import (
    JOINED,
    MSG_ID,
    PARENT,
    REASON,
    ROOT,
    Message,
    Raw,
    identify,
    read,
)
from scalebox_actors.names import digest, is_digest
from scalebox_actors.placement import TO_SITE, Bound, choose
from scalebox_actors.policy import Bury, Reason
from scalebox_actors.ports import Entry, Refused, Stored
from scalebox_actors.topology.model import Topology

OPERATOR = "operator"
_MODULE_TOKEN = 4


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which messages are meant; what is empty does not narrow."""

    id: str = ""
    module: str = ""
    root: str = ""
    reason: str = ""

    def takes_task(self, message: Message) -> bool:
        """Whether a waiting or running message is meant."""
        return (
            (not self.id or message.id == self.id)
            and (not self.module or message.module == self.module)
            and (not self.root or (message.root or message.id) == self.root)
        )

    def takes_letter(self, stored: Stored) -> bool:
        """Whether a dead letter is meant."""
        module, letter_id = letter_key(stored)
        return (
            (not self.id or letter_id == self.id)
            and (not self.module or module == self.module)
            and (not self.root or stored.headers.get(ROOT, "") == self.root)
            and (not self.reason or stored.headers.get(REASON, "") == self.reason)
        )


def letter_key(stored: Stored) -> tuple[str, str]:
    """Return module and id of the task that a dead letter is about."""
    tokens = stored.subject.split(".")
    return tokens[_MODULE_TOKEN], ".".join(tokens[_MODULE_TOKEN + 1 :])


# --- dead letters -------------------------------------------------------------------------------


async def letters(site: Site, chosen: Selection, start: int = 1) -> AsyncIterator[Stored]:
    """Give the dead letters that are meant from sequence `start` on, oldest first."""
    pattern = site.names.dead(chosen.module or "*", chosen.id or "*")
    async for page in site.admin.messages(pattern, start=start):
        for stored in page:
            if chosen.takes_letter(stored):
                yield stored


def again(site: Site, topology: Topology, letter: Stored) -> Entry:
    """Return the message that tries a buried task again: a new task, child of the dead one.

    Its id depends on the letter alone, so that a retry that was cut short can be repeated. It goes
    where its module runs: couriers bury what other sites cannot read, and a module may have moved.
    Raises BadMessage if it runs nowhere that the message may go to.
    """
    module, dead_id = letter_key(letter)
    left_out = (REASON, DETAIL, LOG_TAIL, CARRIED)  # the new one has come from no other site
    headers = {name: value for name, value in letter.headers.items() if name not in left_out}
    headers |= {
        MSG_ID: digest("retry", module, dead_id, letter.sequence),
        PARENT: dead_id,
        ROOT: headers.get(ROOT) or dead_id,
    }
    raw = Raw(subject=letter.subject, body=letter.body, headers=headers)
    return Entry(subject=_address(site, topology, module, raw), body=letter.body, headers=headers)


def _address(site: Site, topology: Topology, module: str, raw: Raw) -> str:
    """Return where a retried message is stored: here if its module runs here."""
    names = site.names
    if module not in topology.modules:
        raise BadMessage(f"topology {topology.name} has no module {module!r} any more")
    try:
        wish = read(raw, module, raw.headers[MSG_ID], hops=HOPS_CEILING).headers.get(TO_SITE, "")
    except (BadMessage, Transient):
        wish = ""  # it is buried again where it is read
    if names.site in topology.sites_of(module) and wish in ("", names.site):
        return names.task(module)
    if JOINED in raw.headers:
        raise BadMessage(f"the group is here, and module {module!r} is not any more")
    bound = Bound(id=raw.headers[MSG_ID], body=raw.body, to_site=wish)
    there = choose(topology, names.site, module, bound)
    return names.task(module) if there == names.site else names.out(there, module)


async def retry(site: Site, broker: JetStreamBroker, topology: Topology, letter: Stored) -> str:
    """Send a buried task again and then remove its letter; returns the new task's id."""
    entry = again(site, topology, letter)
    injected = await broker.inject([entry])
    for _, reason in injected.refused:
        raise SbxError(f"{letter.subject}: not taken by the server: {reason}")
    # Killed here, the letter is still there; a second retry sends the same id again, which the
    # server's window or the done-record of the first one stops.
    await site.admin.delete(letter.sequence)
    return entry.headers[MSG_ID]


async def drop(site: Site, broker: JetStreamBroker, topology: Topology, letter: Stored) -> None:
    """Remove a letter for good; with that of a group, the members that were kept for it."""
    group = letter.headers.get(JOINED, "")
    if group and is_digest(group):
        module, _ = letter_key(letter)
        # The group first: killed in between, the letter is still there to be dropped again. One
        # that is open is left alone: then the letter is of a message that only said to be joined.
        await forget(broker, module, group, remember=topology.remember)
    await site.admin.delete(letter.sequence)


async def bury_waiting(site: Site, broker: JetStreamBroker, topology: Topology, module: str) -> int:
    """Set aside whatever waits for a module, also for one that the topology lost; how many.

    A message's letter is stored before it leaves the queue, so that it is never in neither.
    """
    scribe = Scribe(
        topology=topology, names=broker.names, node=OPERATOR, body_limit=broker.body_limit
    )
    verdict = Bury(Reason.REMOVED, f"module {module} was given up")
    count = 0
    async for page in site.admin.messages(site.names.task(module)):
        for stored in page:
            raw = Raw(subject=stored.subject, body=stored.body, headers=stored.headers)
            task_id = identify(raw, broker.stream_created, stored.sequence)
            effects = scribe.unread(raw, module, task_id, verdict)
            written = await _written_together([effects.record, *effects.outputs], broker)
            await site.admin.delete(stored.sequence)
            count += written
    return count


async def _written_together(entries: Sequence[Entry], broker: JetStreamBroker) -> bool:
    """Write one task's end; False if it had ended before."""
    refusal = await broker.write(entries)
    if refusal is not None and refusal.kind is not Refused.CONFLICT:
        raise SbxError(f"{entries[0].subject}: {refusal.text}")
    return refusal is None
