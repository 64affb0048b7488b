"""Commands that are written together: at once what hurries, a moment later what does not."""

import asyncio

import pytest

from scalebox_actors.broker.outbox import COMPANY, LINGER, Outbox


class Wire:
    """Takes what is written, unless it is cut."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.cut = False
        self.losses = 0

    def send(self, data: bytes) -> bool:
        """Take a piece."""
        if not self.cut:
            self.writes.append(data)
        return not self.cut

    def lost(self) -> None:
        """Note that something was lost."""
        self.losses += 1


@pytest.fixture
def wire() -> Wire:
    """A wire."""
    return Wire()


@pytest.fixture
async def box(wire: Wire) -> Outbox:
    """An outbox that writes to it."""
    return Outbox(wire.send, wire.lost)


async def turn() -> None:
    """Let one turn of the loop pass."""
    await asyncio.sleep(0)


async def test_what_hurries_is_written_in_this_turn(box: Outbox, wire: Wire) -> None:
    """All of one turn in one piece, in its order."""
    box.post(b"a", soon=True)
    box.post(b"b", soon=True)
    assert wire.writes == []
    await turn()

    assert wire.writes == [b"ab"]


async def test_what_does_not_hurry_waits_for_company(box: Outbox, wire: Wire) -> None:
    """It goes with the next that does, before it, and is not written twice."""
    box.post(b"a", soon=False)
    await turn()
    assert wire.writes == []
    box.post(b"b", soon=True)
    await turn()
    await asyncio.sleep(3 * LINGER)

    assert wire.writes == [b"ab"]


async def test_nothing_waits_for_long(box: Outbox, wire: Wire) -> None:
    """Nobody else comes: it is written all the same."""
    box.post(b"a", soon=False)
    async with asyncio.timeout(5):
        while not wire.writes:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(LINGER)

    assert wire.writes == [b"a"]


async def test_many_wait_for_no_more(box: Outbox, wire: Wire) -> None:
    """A write that is worth its cost is made at once."""
    for _ in range(COMPANY):
        box.post(b"a", soon=False)
    await turn()

    assert wire.writes == [b"a" * COMPANY]


async def test_what_is_flushed_is_written_once(box: Outbox, wire: Wire) -> None:
    """The end of a connection waits for nothing."""
    box.post(b"a", soon=False)
    box.flush()
    box.flush()
    await asyncio.sleep(3 * LINGER)

    assert wire.writes == [b"a"]


async def test_what_cannot_be_written_is_told(box: Outbox, wire: Wire) -> None:
    """Whoever waits for an answer hears that none will come; later commands are not held up."""
    wire.cut = True
    box.post(b"a", soon=True)
    await turn()
    wire.cut = False
    box.post(b"b", soon=True)
    await turn()

    assert (wire.losses, wire.writes) == (1, [b"b"])
