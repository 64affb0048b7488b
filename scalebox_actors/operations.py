"""What operators do to messages: find waiting ones, cancel them, send buried ones again.

Each is safe to repeat after a crash in the middle: the record is written before what depends on
it, and what is sent again gets the same id every time.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence

import msgspec

from scalebox_actors.broker import JetStreamBroker
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
from scalebox_actors.names import bound_for, digest, is_digest
from scalebox_actors.node import WITHDRAW
from scalebox_actors.parcel import seal, unpack
from scalebox_actors.policy import Bury, Reason
from scalebox_actors.ports import Entry, Refused, Stored
from scalebox_actors.topology.model import Topology

OPERATOR = "operator"
WITHDRAW_SECONDS = 0.5
"""How long the couriers of a site have to let go of messages."""
_MODULE_TOKEN = 4

_encode = msgspec.json.Encoder().encode


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


def again(site: Site, letter: Stored) -> Entry:
    """Return the message that tries a buried task again: a new task, child of the dead one.

    Its id depends on the letter alone, so that a retry that was cut short can be repeated.
    """
    module, dead_id = letter_key(letter)
    left_out = (REASON, DETAIL, LOG_TAIL)
    headers = {name: value for name, value in letter.headers.items() if name not in left_out}
    headers |= {
        MSG_ID: digest("retry", module, dead_id, letter.sequence),
        PARENT: dead_id,
        ROOT: headers.get(ROOT) or dead_id,
    }
    return Entry(subject=site.names.task(module), body=letter.body, headers=headers)


async def retry(site: Site, broker: JetStreamBroker, letter: Stored) -> str:
    """Send a buried task again and then remove its letter; returns the new task's id."""
    entry = again(site, letter)
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


# --- cancelling ---------------------------------------------------------------------------------


async def waiting(
    site: Site, broker: JetStreamBroker, topology: Topology, chosen: Selection
) -> AsyncIterator[list[Message]]:
    """Give the messages that are meant and have not ended, in pages, running ones included."""
    for module in [chosen.module] if chosen.module else topology.modules:
        async for page in site.admin.messages(site.names.task(module)):
            messages = [_message(broker, stored, module) for stored in page]
            yield [m for m in messages if m is not None and chosen.takes_task(m)]


async def recall(site: Site, broker: JetStreamBroker, chosen: Selection) -> AsyncIterator[Message]:
    """Take back the messages that are meant and wait here to be carried to other sites.

    What a courier is just handing over is left alone: it is looked for over there.
    """
    module = chosen.module or "*"
    for pattern in (site.names.out("*", module), site.names.parcel("*", module)):
        async for page in site.admin.messages(pattern):
            found = [one for one in (_sorted(broker, s, chosen) for s in page) if one.taken]
            underway = await _withdrawn(broker, [one.stored.sequence for one in found])
            for one in found:
                if one.stored.sequence not in underway and await _taken_back(site, broker, one):
                    for message in one.taken:
                        yield message


class _Recalled(msgspec.Struct, frozen=True):
    """What is taken out of a stored message that waits to be carried, and what stays in it."""

    stored: Stored
    taken: tuple[Message, ...]
    left: tuple[Entry, ...]


def _sorted(broker: JetStreamBroker, stored: Stored, chosen: Selection) -> _Recalled:
    bound = bound_for(stored.subject)
    if not bound.parcel:
        message = _message(broker, stored, bound.module)
        meant = message is not None and chosen.takes_task(message)
        return _Recalled(stored, (message,) if message is not None and meant else (), ())
    raw = Raw(subject=stored.subject, body=stored.body, headers=stored.headers)
    try:
        inside = unpack(raw, bound.count)
    except BadMessage:  # a courier buries it
        return _Recalled(stored, (), ())
    if any(one.fault for one in inside):
        return _Recalled(stored, (), ())  # a courier buries a part of it, and carries the rest
    taken: list[Message] = []
    left: list[Entry] = []
    for one in inside:
        message = _read(one, bound.module, one.headers.get(MSG_ID, ""))
        if message is not None and message.id and chosen.takes_task(message):
            taken.append(message)
        else:
            subject = broker.names.out(bound.site, bound.module)
            left.append(Entry(subject=subject, body=one.body, headers=one.headers))
    return _Recalled(stored, tuple(taken), tuple(left))


async def _withdrawn(broker: JetStreamBroker, places: list[int]) -> set[int]:
    """Make couriers let go of what is in their hands; returns what they are handing over."""
    if not places:
        return set()
    answers = await broker.ask(WITHDRAW, _encode(places), wait=WITHDRAW_SECONDS)
    return {place for answer in answers for place in msgspec.json.decode(answer, type=list[int])}


async def _taken_back(site: Site, broker: JetStreamBroker, one: _Recalled) -> bool:
    """Remove a message that waits to be carried; of a parcel, what is to stay is stored anew.

    Killed in between, what stays is there twice, under the same ids, and has one effect.
    """
    if one.left:
        refusal = await broker.write([seal(one.left)])
        if refusal is not None and refusal.kind is not Refused.DUPLICATE:
            raise SbxError(f"{one.stored.subject}: {refusal.text}")
    return await site.admin.delete(one.stored.sequence)


async def cancel(
    broker: JetStreamBroker, topology: Topology, messages: Sequence[Message]
) -> list[Message]:
    """Write that tasks are cancelled; returns those that had not ended before.

    From here on nothing of them can be committed. `end_runs` then frees their slots.
    """
    scribe = Scribe(
        topology=topology, names=broker.names, node=OPERATOR, body_limit=broker.body_limit
    )
    entries = [scribe.cancelled(message).record for message in messages]
    written = await _written(broker, entries)
    return [message for message, new in zip(messages, written, strict=True) if new]


async def end_runs(broker: JetStreamBroker, messages: Sequence[Message]) -> None:
    """Ask every node to end the runs of these tasks, if it has any in hand."""
    by_module: dict[str, list[str]] = {}
    for message in messages:
        by_module.setdefault(message.module, []).append(message.id)
    questions = [{"module": module, "ids": ids} for module, ids in by_module.items()]
    await asyncio.gather(*(broker.ask("cancel", _encode(question)) for question in questions))


def _message(broker: JetStreamBroker, stored: Stored, module: str) -> Message | None:
    """Return the task that a stored message is; None if it is none and will be buried."""
    raw = Raw(subject=stored.subject, body=stored.body, headers=stored.headers)
    return _read(raw, module, identify(raw, broker.stream_created, stored.sequence))


def _read(raw: Raw, module: str, task_id: str) -> Message | None:
    try:
        return read(raw, module, task_id, hops=HOPS_CEILING)
    except (BadMessage, Transient):
        return None


async def _written(broker: JetStreamBroker, entries: Sequence[Entry]) -> list[bool]:
    """Write records, and say of each whether it is ours: halves until the odd ones are alone."""
    if not entries:
        return []
    refusal = await broker.write(entries)
    if refusal is None:
        return [True] * len(entries)
    if len(entries) > 1:
        middle = len(entries) // 2
        first = await _written(broker, entries[:middle])
        return first + await _written(broker, entries[middle:])
    if refusal.kind is Refused.CONFLICT:
        return [False]
    raise SbxError(f"{entries[0].subject}: {refusal.text}")
