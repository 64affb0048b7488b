"""The receiving end of a road: what came from another site is counted once."""

import asyncio
import contextlib

import pytest
from unit.road import HERE, THERE, Road, carried, end_pauses, expected

from scalebox_actors.crossing import CARRIED, mark, received_key
from scalebox_actors.effects import Effects
from scalebox_actors.ledger import Ledger, placed
from scalebox_actors.message import MSG_ID
from scalebox_actors.ports import Delivery, Entry
from scalebox_actors.records import DoneRecord
from scalebox_actors.testing.memory import MemoryBroker
from scalebox_actors.testing.tape import Tape

SITES = (HERE.site, THERE.site)


@pytest.fixture(autouse=True)
def no_real_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no real time here."""
    end_pauses(monkeypatch)


def record() -> Effects:
    """The end of a task, written by somebody."""
    entry = Entry(subject=THERE.done("calc", "calc0"), body=b'{"ended":"done"}', expect=0)
    return Effects(record=entry)


async def take_one(broker: MemoryBroker) -> Delivery:
    """The next delivery of `calc`."""
    intake = broker.intake("calc")
    async with intake:
        intake.grant(1)
        async for delivery in intake:
            return delivery
    raise AssertionError


async def test_the_receiving_end_counts_the_copy_that_was_committed_and_no_other() -> None:
    """A second copy of a message, stored after a restart forgot its id, is not counted."""
    there = MemoryBroker(THERE, ["calc"])
    ledger = Ledger(there, "n1", SITES)
    for _ in range(2):
        there.send("calc", b"0", {MSG_ID: "calc0", CARRIED: "hub"})
        there.forget_ids()
    first = await take_one(there)
    effects = placed(record(), first)
    assert await there.write([effects.record]) is None
    await ledger.receive(first, "calc", committed=True)
    await ledger.receive(await take_one(there), "calc", committed=False)

    assert await ledger.totals(received_key("hub")) == expected(1)
    assert there.messages(THERE.task("calc")) == []


async def test_a_node_that_died_before_counting_has_its_message_counted_by_the_next() -> None:
    """Committed, not counted, delivered again: the record names this copy, so it counts."""
    there = MemoryBroker(THERE, ["calc"])
    there.send("calc", b"0", {MSG_ID: "calc0", CARRIED: "hub"})
    first = await take_one(there)
    assert await there.write([placed(record(), first).record]) is None
    first.let_go()
    there.advance(61)
    await Ledger(there, "n2", SITES).receive(await take_one(there), "calc", committed=False)

    assert await Ledger(there, "n3").totals(received_key("hub")) == expected(1)


async def test_a_node_that_died_after_counting_has_its_message_not_counted_again() -> None:
    """The dead node's tally names the place, so its successor on another host leaves it."""
    tape = Tape()
    there = MemoryBroker(THERE, ["calc"], tape=tape)
    there.send("calc", b"0", {MSG_ID: "calc0", CARRIED: "hub"})
    first = await take_one(there)
    assert await there.write([placed(record(), first).record]) is None
    await Ledger(there, "n1", SITES).count(
        received_key("hub"), first.sequence, [mark("calc", "calc0", b"0")]
    )
    first.let_go()
    there.advance(61)
    await Ledger(there, "n2", SITES).receive(await take_one(there), "calc", committed=False)

    assert await Ledger(there, "n3").totals(received_key("hub")) == expected(1)


@pytest.mark.parametrize("second", ["n1", "n2"])
async def test_what_a_killed_server_hands_out_as_if_it_were_new_is_not_counted_again(
    second: str,
) -> None:
    """An ack that was confirmed may be forgotten: its place is written down on some node."""
    road = Road()
    road.enclose(0, 1, 2)
    (stored,) = road.here.messages(HERE.out("a", ">"))
    for node in ("n1", second):
        life = road.start(node)
        await carried(road, 3)
        life.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await life
        road.here.crash()
        road.here.shelf._sequence = stored.sequence - 1
        road.here.shelf.store(stored.subject, stored.body, stored.headers)

    assert len(road.there.messages()) == 3
    assert await road.tally() == expected(3)


async def test_what_was_made_here_is_not_counted() -> None:
    """A message of this site, or one with a forged origin, only leaves the stream."""
    there = MemoryBroker(THERE, ["calc"])
    for number, origin in enumerate(("a", "No Site", "invented", "")):
        there.send("calc", b"0", {MSG_ID: f"m{number}", CARRIED: origin})
        await Ledger(there, "n1", SITES).receive(await take_one(there), "calc", committed=True)

    assert await there.state_keys("link.from") == []
    assert there.messages(THERE.task("calc")) == []


async def test_a_record_names_a_place_only_for_what_came_from_elsewhere() -> None:
    """Local tasks keep the record that they have."""
    there = MemoryBroker(THERE, ["calc"])
    there.send("calc", b"0", {MSG_ID: "calc0"})
    delivery = await take_one(there)

    assert placed(record(), delivery) == record()
    assert DoneRecord(ended="done").place == 0  # type: ignore[arg-type]  # the word itself
