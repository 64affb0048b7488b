"""Doing something in turn: a few at once, in order, and past those that are stuck."""

import asyncio

import pytest

from scalebox_actors.runtimes.turns import Turns


async def test_no_more_at_once_than_may_be() -> None:
    """All come to their turn."""
    turns, now, most, done = Turns(2, patience=10.0), 0, 0, 0

    async def work() -> None:
        nonlocal now, most, done
        async with turns.turn():
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.001)
            now -= 1
            done += 1

    await asyncio.gather(*(work() for _ in range(10)))

    assert (most, done) == (2, 10)


async def test_nobody_waits_for_ever() -> None:
    """Those before are stuck: it is done without a turn, and nothing is given back for it."""
    turns, stuck = Turns(1, patience=0.01), asyncio.Event()

    async def hang() -> None:
        async with turns.turn():
            await stuck.wait()

    hanging = asyncio.create_task(hang())
    await asyncio.sleep(0)
    async with asyncio.timeout(5), turns.turn():
        pass
    stuck.set()
    await hanging

    assert turns._free._value == 1


async def test_a_turn_is_given_back_after_an_error() -> None:
    """And after a cancellation, while waiting or in the middle."""
    turns = Turns(1, patience=10.0)

    with pytest.raises(ValueError, match="x"):
        async with turns.turn():
            raise ValueError("x")
    async with turns.turn():
        waiting = asyncio.create_task(_once(turns))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])

    await _once(turns)


async def _once(turns: Turns) -> None:
    async with turns.turn():
        pass
