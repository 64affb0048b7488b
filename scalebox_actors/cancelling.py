"""Cancelling: messages that wait are not run, not carried, and runs of them end.

Safe to repeat after a crash in the middle: a record is written before a run is ended, and what is
to stay of a parcel is stored before the parcel is removed.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from functools import partial

import msgspec

from scalebox_actors.broker import JetStreamBroker
from scalebox_actors.effects import Scribe
from scalebox_actors.errors import UNREADABLE, BadMessage, SbxError, Transient
from scalebox_actors.limits import HOPS_CEILING
from scalebox_actors.local import Site
from scalebox_actors.message import MSG_ID, Message, Raw, identify, read
from scalebox_actors.names import bound_for, is_id, is_reserved_id
from scalebox_actors.node import WITHDRAW
from scalebox_actors.operations import OPERATOR, Selection
from scalebox_actors.parcel import seal, unpack
from scalebox_actors.ports import Entry, Refused, Stored
from scalebox_actors.records import DoneRecord, Ended
from scalebox_actors.topology.model import Topology

WITHDRAW_SECONDS = 0.5
"""How long the couriers of a site have to let go of messages."""
READS = 64
"""Records that are read at once."""

_encode = msgspec.json.Encoder().encode
_record = msgspec.json.Decoder(DoneRecord).decode


class Swept(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a look at some stored messages."""

    last: int
    """The place in the stream up to which was looked."""
    cancelled: Sequence[Message] = ()
    """What had not ended before."""
    stopped: Sequence[Message] = ()
    """What is cancelled, now or before, and may run all the same: its runs are to be ended."""
    underway: Sequence[Message] = ()
    """What a courier is handing over, or has: it is looked for at the other site."""


Sweep = Callable[[int], AsyncIterator[Swept]]
"""Looks from a place in the stream on, and cancels what is meant."""


def recalls(site: Site, broker: JetStreamBroker, chosen: Selection) -> Sequence[Sweep]:
    """Return what has to be done to take back what is meant and waits to be carried."""
    module, names = chosen.module or "*", site.names
    ways = (names.out("*", module), names.parcel("*", module))
    return [partial(recall, site, broker, chosen, way) for way in ways]


def sweeps(
    site: Site, broker: JetStreamBroker, topology: Topology, chosen: Selection
) -> Sequence[Sweep]:
    """Return what has to be done to cancel what is meant, one after the other."""
    here = [name for name in topology.modules if chosen.module in ("", name)]
    narrowed = [msgspec.structs.replace(chosen, module=name) for name in here]
    return [
        *recalls(site, broker, chosen),
        *(partial(_stopped, site, broker, topology, one) for one in narrowed),
    ]


async def end_runs(broker: JetStreamBroker, messages: Sequence[Message]) -> None:
    """Ask every node to end the runs of these tasks, if it has any in hand."""
    by_module: dict[str, list[str]] = {}
    for message in messages:
        by_module.setdefault(message.module, []).append(message.id)
    questions = [{"module": module, "ids": ids} for module, ids in by_module.items()]
    await asyncio.gather(*(broker.ask("cancel", _encode(question)) for question in questions))


# --- what waits or runs here --------------------------------------------------------------------


async def _stopped(
    site: Site, broker: JetStreamBroker, topology: Topology, chosen: Selection, start: int
) -> AsyncIterator[Swept]:
    """Write that tasks of a module are cancelled: from then on nothing of them is committed."""
    scribe = Scribe(
        topology=topology, names=broker.names, node=OPERATOR, body_limit=broker.body_limit
    )
    async for page in site.admin.messages(site.names.task(chosen.module), start=start):
        found = [_message(broker, stored, chosen.module) for stored in page]
        meant = [one for one in found if one is not None and chosen.takes_task(one)]
        entries = [scribe.cancelled(message).record for message in meant]
        written = await _written(broker, entries)
        fresh = [message for message, new in zip(meant, written, strict=True) if new]
        old = [message for message, new in zip(meant, written, strict=True) if not new]
        # Whoever cancelled these may have been killed before their runs were ended.
        stopped = [*fresh, *await _cancelled_before(broker, old)]
        yield Swept(last=page[-1].sequence, cancelled=fresh, stopped=stopped)


async def _cancelled_before(broker: JetStreamBroker, ended: Sequence[Message]) -> list[Message]:
    """Return which of the tasks that had ended were cancelled."""
    found: list[Message] = []
    for start in range(0, len(ended), READS):
        some = ended[start : start + READS]
        subjects = [broker.names.done(message.module, message.id) for message in some]
        records = await asyncio.gather(*(broker.read(subject) for subject in subjects))
        for message, stored in zip(some, records, strict=True):
            if stored is not None and _record(stored.body).ended is Ended.CANCELLED:
                found.append(message)
    return found


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


def _message(broker: JetStreamBroker, stored: Stored, module: str) -> Message | None:
    """Return the task that a stored message is; None if it is none and will be buried."""
    raw = Raw(subject=stored.subject, body=stored.body, headers=stored.headers)
    return _read(raw, module, identify(raw, broker.stream_created, stored.sequence))


def _read(raw: Raw, module: str, task_id: str) -> Message | None:
    try:
        return read(raw, module, task_id, hops=HOPS_CEILING)
    except (BadMessage, Transient):
        return None


# --- what waits to be carried -------------------------------------------------------------------


async def recall(
    site: Site, broker: JetStreamBroker, chosen: Selection, pattern: str, start: int = 1
) -> AsyncIterator[Swept]:
    """Take back the messages that are meant and wait here to be carried to other sites."""
    async for page in site.admin.messages(pattern, start=start):
        held = [one for one in (_held(broker, stored, chosen) for stored in page) if one.meant]
        underway = await _withdrawn(broker, held)
        for one in held:
            gone = underway.get(one.stored.sequence, set())
            free = one.meant.keys() - gone
            if not (free and await _taken_back(site, broker, one, free)):
                free = set()
            yield Swept(
                last=one.stored.sequence,
                cancelled=[one.meant[place] for place in sorted(free)],
                underway=[message for place, message in one.meant.items() if place not in free],
            )
        yield Swept(last=page[-1].sequence)


class _Held(msgspec.Struct, frozen=True):
    """A stored message that waits to be carried, and which of the messages in it are meant."""

    stored: Stored
    meant: Mapping[int, Message]
    """By their places in the parcel."""
    inside: Sequence[Entry] = ()
    """All of a parcel."""


def _held(broker: JetStreamBroker, stored: Stored, chosen: Selection) -> _Held:
    bound = bound_for(stored.subject)
    if not bound.parcel:
        message = _message(broker, stored, bound.module)
        meant = message is not None and chosen.takes_task(message)
        return _Held(stored, {0: message} if message is not None and meant else {})
    raw = Raw(subject=stored.subject, body=stored.body, headers=stored.headers)
    try:
        inside = unpack(raw, bound.count)
    except BadMessage:  # a courier buries it
        return _Held(stored, {})
    if any(one.fault or not _has_id(one) for one in inside):
        # A courier buries what is faulty and carries the rest; and a message without an id is
        # named by its place in this parcel, so in another one it would be a second one.
        return _Held(stored, {})
    found = [_read(one, bound.module, one.headers[MSG_ID]) for one in inside]
    subject = broker.names.out(bound.site, bound.module)
    return _Held(
        stored,
        {
            place: message
            for place, message in enumerate(found)
            if message is not None and chosen.takes_task(message)
        },
        [Entry(subject=subject, body=one.body, headers=one.headers) for one in inside],
    )


def _has_id(one: Raw) -> bool:
    given = one.headers.get(MSG_ID, "")
    return is_id(given) and not is_reserved_id(given)


async def _withdrawn(broker: JetStreamBroker, held: Sequence[_Held]) -> dict[int, set[int]]:
    """Make couriers let go of what is in their hands; returns what has got away from them."""
    if not held:
        return {}
    question = {one.stored.sequence: list(one.meant) for one in held}
    answers = await broker.ask(WITHDRAW, _encode(question), wait=WITHDRAW_SECONDS)
    found: dict[int, set[int]] = {}
    for answer in answers:
        try:
            told = msgspec.json.decode(answer, type=dict[int, set[int]])
        except UNREADABLE as error:
            raise SbxError(f"a node answers in another version: {error}") from None
        for sequence, places in told.items():
            found.setdefault(sequence, set()).update(places)
    return found


async def _taken_back(
    site: Site, broker: JetStreamBroker, one: _Held, free: Collection[int]
) -> bool:
    """Remove a message that waits to be carried; of a parcel, what is to stay is stored anew.

    What stays may have crossed already: it is handed over again and recognised by its id. Killed
    in between, it is there twice, under the same ids, and has one effect.
    """
    left = [entry for place, entry in enumerate(one.inside) if place not in free]
    if left:
        refusal = await broker.write([seal(left)])
        if refusal is not None and refusal.kind is not Refused.DUPLICATE:
            raise SbxError(f"{one.stored.subject}: {refusal.text}")
    return await site.admin.delete(one.stored.sequence)
