"""Messages that are at hand for slots that soon fall free, and given back when none does."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from integration.broker_site import Site, open_site, task

from scalebox_actors.ports import Delivery, Intake

pytestmark = pytest.mark.integration

SLOTS = 4


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """A site with a synced store."""
    async with open_site(tmp_path / "store") as site:
        yield site


async def held(site: Site) -> int:
    """Return how many messages the server counts as in somebody's hands."""
    return (await site.broker.backlog("calc")).in_hand


async def work_off(intake: Intake, count: int) -> list[Delivery]:
    """Take short runs one after the other in all slots; returns what is in the slots at last."""
    held: list[Delivery] = [await anext(aiter(intake)) for _ in range(SLOTS)]
    for _ in range(count):
        oldest = held.pop(0)
        intake.grant(1)
        await oldest.done()
        held.append(await anext(aiter(intake)))
    return held


async def test_short_runs_never_have_more_in_their_slots_than_there_are(site: Site) -> None:
    """What is at hand is not handed out: without a free slot nothing comes."""
    await site.broker.inject([task(number) for number in range(400)])
    async with site.broker.intake("calc") as intake:
        intake.grant(SLOTS)
        await work_off(intake, 200)
        async with asyncio.timeout(10):
            while await held(site) <= SLOTS:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.02)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(aiter(intake)), 0.3)


async def test_what_is_at_hand_is_given_back_when_runs_become_long(site: Site) -> None:
    """Another node, which has a free slot, gets every message that waits here for one."""
    await site.broker.inject([task(number) for number in range(220)])
    async with site.broker.intake("calc") as busy, site.broker.intake("calc") as idle:
        busy.grant(SLOTS)
        kept = await work_off(busy, 200)
        idle.grant(20)
        async with asyncio.timeout(10):
            others = [await anext(aiter(idle)) for _ in range(220 - 200 - SLOTS)]

    ids = {delivery.message_id for delivery in (*kept, *others)}
    assert len(ids) == len(kept) + len(others) == 20


async def test_a_held_intake_gives_back_what_is_at_hand_at_once(site: Site) -> None:
    """A node that drains, or is suspended, keeps only what runs."""
    await site.broker.inject([task(number) for number in range(220)])
    async with site.broker.intake("calc") as intake:
        intake.grant(SLOTS)
        kept = await work_off(intake, 200)
        intake.hold()
        async with site.broker.intake("calc") as idle, asyncio.timeout(10):
            idle.grant(20)
            others = [await anext(aiter(idle)) for _ in range(220 - 200 - SLOTS)]

    ids = {delivery.message_id for delivery in (*kept, *others)}
    assert len(ids) == len(kept) + len(others) == 20


async def test_every_delivery_is_foretold_once(site: Site) -> None:
    """What has to be known of a message can be asked before it has its slot."""
    await site.broker.inject([task(number) for number in range(220)])
    told: list[Delivery] = []
    async with site.broker.intake("calc") as intake:
        intake.foretell(told.append)
        intake.grant(SLOTS)
        first = [await anext(aiter(intake)) for _ in range(SLOTS)]
        intake.grant(SLOTS)
        for delivery in first:
            await delivery.done()
        last = await work_off(intake, 200)

    ids = [delivery.message_id for delivery in told]
    assert len(ids) == len(set(ids)) > SLOTS
    assert {delivery.message_id for delivery in (*first, *last)} <= set(ids)


async def test_a_batch_leaves_the_other_slots_their_messages(site: Site) -> None:
    """What was at hand for them goes into the batch, which is older; others are asked for."""
    await site.broker.inject([task(number) for number in range(20)])
    async with site.broker.intake("calc") as intake, asyncio.timeout(10):
        intake.grant(2)
        first = await anext(aiter(intake))
        while await held(site) < 2:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.02)
        batch = [first, *await intake.more(3)]
        other = await anext(aiter(intake))

    assert [delivery.message_id for delivery in batch[:2]] == ["m0", "m1"]
    assert sorted(one.message_id for one in (*batch, other)) == ["m0", "m1", "m2", "m3", "m4"]
