"""What every broker promises of deliveries: who gets which message, when, and how it leaves."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from contract.brokerage import CALC, KINDS, Bench, bodies, nothing_comes, open_bench, take, task

from scalebox_actors.message import MSG_ID
from scalebox_actors.names import is_reserved_id
from scalebox_actors.ports import Entry


@pytest.fixture(params=KINDS)
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    """Each broker in turn, with the streams of one topology and nothing in them."""
    async with open_bench(request, tmp_path) as made:
        yield made


async def test_no_more_come_than_were_granted(bench: Bench) -> None:
    """Deliveries come oldest first, as many as granted, and more with the next grant."""
    await bench.write([task(n) for n in range(5)])
    async with bench.broker.intake("calc") as intake:
        intake.grant(2)
        intake.grant(1)
        first = await take(intake, 3)
        idle = await nothing_comes(intake)
        backlog = await bench.broker.backlog("calc")
        intake.grant(5)
        rest = await take(intake, 2)

    assert idle
    assert (backlog.waiting, backlog.in_hand) == (2, 3)
    assert [d.raw.body for d in (*first, *rest)] == [b"0", b"1", b"2", b"3", b"4"]
    assert [d.message_id for d in first] == ["m0", "m1", "m2"]
    assert not any(d.redelivered for d in first)


async def test_a_message_comes_when_it_is_written(bench: Bench) -> None:
    """A granted slot waits for messages that come later."""
    async with bench.broker.intake("calc") as intake:
        intake.grant(1)
        taking = asyncio.create_task(take(intake, 1))
        await asyncio.sleep(0.05)
        await bench.write([task(1)])
        (delivery,) = await taking

    assert delivery.raw.subject == CALC
    assert abs(delivery.stored - await bench.broker.clock()) < 5


async def test_modules_do_not_see_each_others_tasks(bench: Bench) -> None:
    """An intake delivers the tasks of its module only."""
    await bench.write([task(1)])
    async with bench.broker.intake("merge") as intake:
        intake.grant(1)

        assert await nothing_comes(intake)


async def test_done_takes_the_message_out(bench: Bench) -> None:
    """A task leaves by `done` and by nothing else; doing it twice does no harm."""
    await bench.write([task(1)])
    async with bench.broker.intake("calc") as intake:
        intake.grant(2)
        (delivery,) = await take(intake, 1)
        held = await bodies(bench.broker, CALC)
        await delivery.done()
        await delivery.done()

        assert held == [b"1"]
        assert await bodies(bench.broker, CALC) == []
        backlog = await bench.broker.backlog("calc")
        assert (backlog.waiting, backlog.in_hand) == (0, 0)


async def test_given_back_it_comes_again(bench: Bench) -> None:
    """A message that was given back comes again, marked, and after its delay."""
    await bench.write([task(1)])
    async with bench.broker.intake("calc") as intake:
        intake.grant(1)
        (delivery,) = await take(intake, 1)
        await delivery.give_back(0)
        intake.grant(1)
        (again,) = await take(intake, 1)
        await again.give_back(0.5)
        intake.grant(1)
        early = await nothing_comes(intake)
        await bench.pass_time(0.5)
        (third,) = await take(intake, 1)

    assert early
    assert [d.redelivered for d in (delivery, again, third)] == [False, True, True]
    assert third.message_id == delivery.message_id


async def test_more_takes_what_waits_and_never_waits(bench: Bench) -> None:
    """Further deliveries are those that lie there now; they need no grant, and none is kept."""
    await bench.write([task(n) for n in range(4)])
    async with bench.broker.intake("calc") as intake:
        intake.grant(1)
        first = await take(intake, 1)
        two = await intake.more(2)
        rest = await intake.more(10)
        none = await intake.more(10)
        await bench.write([task(9)])
        idle = await nothing_comes(intake)

        assert [d.raw.body for d in (*first, *two, *rest)] == [b"0", b"1", b"2", b"3"]
        assert none == []
        assert idle
        for delivery in (*first, *two, *rest):
            await delivery.done()
        (last,) = await intake.more(10)
        assert last.raw.body == b"9"


async def test_more_leaves_what_others_have_asked_for(bench: Bench) -> None:
    """A slot that takes several at once does not take them from slots that wait elsewhere."""
    async with bench.broker.intake("calc") as one, bench.broker.intake("calc") as two:
        two.grant(2)
        idle = await nothing_comes(two)
        await bench.write([task(1), task(2)])
        taken = await take(two, 2)

        assert idle
        assert list(await one.more(5)) == []
        assert len(taken) == 2


async def test_held_intakes_take_nothing(bench: Bench) -> None:
    """After `hold` nothing comes although slots were granted; after `grant` it comes."""
    async with bench.broker.intake("calc") as intake:
        intake.grant(5)
        await asyncio.sleep(0.05)
        intake.hold()
        await bench.write([task(1), task(2)])
        idle = await nothing_comes(intake)
        intake.grant(1)
        (delivery,) = await take(intake, 1)

        assert idle
        assert delivery.raw.body in (b"1", b"2")
        assert await nothing_comes(intake)


async def test_what_was_not_taken_goes_back_on_hold(bench: Bench) -> None:
    """Deliveries that nobody has taken from the intake are free for other nodes at once."""
    await bench.write([task(1), task(2)])
    async with bench.broker.intake("calc") as one, bench.broker.intake("calc") as two:
        one.grant(2)
        await asyncio.sleep(0.1)
        one.hold()
        two.grant(2)
        deliveries = await take(two, 2)

    assert sorted(d.raw.body for d in deliveries) == [b"1", b"2"]


async def test_two_intakes_share_the_work(bench: Bench) -> None:
    """Each message comes to one of two intakes."""
    await bench.write([task(n) for n in range(10)])
    async with bench.broker.intake("calc") as one, bench.broker.intake("calc") as two:
        one.grant(5)
        first = await take(one, 5)
        two.grant(10)
        second = await take(two, 5)

    assert {d.message_id for d in first} | {d.message_id for d in second} == {
        f"m{n}" for n in range(10)
    }


async def test_a_message_without_an_id_is_named_by_its_place(bench: Bench) -> None:
    """Messages without a usable id get a reserved one each, the same at every delivery."""
    await bench.write([Entry(subject=CALC), Entry(subject=CALC, headers={MSG_ID: "_forged"})])
    async with bench.broker.intake("calc") as intake:
        intake.grant(2)
        first = await take(intake, 2)
        ids = [d.message_id for d in first]
        for delivery in first:
            await delivery.give_back(0)
        intake.grant(2)
        again = [d.message_id for d in await take(intake, 2)]

    assert len(set(ids)) == 2
    assert all(map(is_reserved_id, ids))
    assert sorted(again) == sorted(ids)
