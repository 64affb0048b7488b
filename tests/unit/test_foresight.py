"""Done-records that are read ahead: one question each, and an answer that is not too old."""

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest

from scalebox_actors import foresight
from scalebox_actors.errors import Unavailable
from scalebox_actors.foresight import Foresight
from scalebox_actors.names import Names
from scalebox_actors.ports import Delivery, Entry, Stored
from scalebox_actors.testing.memory import MemoryBroker

NAMES = Names("t")


class Asked(MemoryBroker):
    """A broker that counts questions, and refuses as many as it is told to."""

    def __init__(self) -> None:
        super().__init__(NAMES, ["a"])
        self.questions = self.refusals = 0

    async def read(self, subject: str) -> Stored | None:
        """Return the last message on `subject`."""
        self.questions += 1
        await asyncio.sleep(0)
        if self.refusals:
            self.refusals -= 1
            raise Unavailable("not now")
        return await super().read(subject)


@pytest.fixture
async def broker() -> Asked:
    """A broker with one message."""
    broker = Asked()
    await broker.write([Entry(subject=NAMES.task("a"), body=b"x", headers={"Nats-Msg-Id": "one"})])
    return broker


@pytest.fixture
async def delivery(broker: Asked) -> AsyncIterator[Delivery]:
    """The message in our hands."""
    async with broker.intake("a") as intake:
        intake.grant(1)
        yield await anext(aiter(intake))


async def end(broker: Asked) -> None:
    """Let the task have ended."""
    await broker.write([Entry(subject=NAMES.done("a", "one"), body=b"{}", expect=0)])


async def test_what_was_read_ahead_is_not_read_again(broker: Asked, delivery: Delivery) -> None:
    """One question, asked before anybody needs the answer."""
    await end(broker)
    looking = Foresight(broker, "a")
    looking.look(delivery)
    await asyncio.sleep(0)
    record = await looking.record(delivery)

    assert record is not None
    assert record.body == b"{}"
    assert broker.questions == 1


async def test_without_foresight_it_is_read_when_needed(broker: Asked, delivery: Delivery) -> None:
    """A message that found a free slot was not looked at before."""
    assert await Foresight(broker, "a").record(delivery) is None
    assert broker.questions == 1


async def test_an_old_answer_does_not_count(
    broker: Asked, delivery: Delivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task may have ended elsewhere while its message waited."""
    monkeypatch.setattr(foresight, "FRESH", 0.0)
    looking = Foresight(broker, "a")
    looking.look(delivery)
    await asyncio.sleep(0.01)
    await end(broker)

    assert await looking.record(delivery) is not None
    assert broker.questions == 2


async def test_a_question_that_failed_is_asked_again(broker: Asked, delivery: Delivery) -> None:
    """Whoever needs the answer gets it, or hears of the second failure."""
    looking = Foresight(broker, "a")
    broker.refusals = 1
    looking.look(delivery)
    assert await looking.record(delivery) is None
    broker.refusals = 2
    looking.look(delivery)
    with pytest.raises(Unavailable):
        await looking.record(delivery)


async def test_a_twin_does_not_take_an_answer_from_before_the_end(
    broker: Asked, delivery: Delivery
) -> None:
    """Two copies wait; the first ends the task, and the second hears of that."""
    looking = Foresight(broker, "a")
    looking.look(delivery)
    await asyncio.sleep(0)
    assert await looking.record(delivery) is None
    looking.look(delivery)
    await asyncio.sleep(0)
    await end(broker)
    looking.forget(delivery.message_id)

    assert await looking.record(delivery) is not None


async def test_messages_that_never_get_their_slot_leave_nothing(
    broker: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are given back, and nobody asks for the answer, nor for its error."""
    monkeypatch.setattr(foresight, "FRESH", 0.005)
    monkeypatch.setattr(foresight, "MOST", 1)
    looking = Foresight(broker, "a")
    broker.refusals = 1
    async with broker.intake("a") as intake:
        intake.grant(1)
        delivery = await anext(aiter(intake))
        looking.look(delivery)
        await asyncio.sleep(0.02)
        await delivery.give_back(0.0)
    del delivery
    gc.collect()  # whatever nobody asked for would complain now
    async with broker.intake("a") as intake:
        intake.grant(1)
        again = await anext(aiter(intake))
        looking.look(again)

    assert len(looking._looks) == 1
