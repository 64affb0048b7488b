"""The committer's pace: small groups wait a moment for company, large ones do not."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence

import pytest

from scalebox_actors import committer
from scalebox_actors.committer import ENOUGH, FEW, MANY, PACE, Committer
from scalebox_actors.effects import Effects
from scalebox_actors.names import Names
from scalebox_actors.ports import Entry, Refusal
from scalebox_actors.records import Settled, Settlement
from scalebox_actors.testing.memory import MemoryBroker

NAMES = Names("t")


class Noting(MemoryBroker):
    """A broker that notes when each batch began, and of how many messages it was."""

    def __init__(self) -> None:
        super().__init__(NAMES, ["a"])
        self.batches: list[tuple[float, int]] = []

    async def write(self, entries: Sequence[Entry], *, soon: bool = True) -> Refusal | None:
        """Store a batch, as quickly as memory does."""
        self.batches.append((asyncio.get_running_loop().time(), len(entries)))
        return await super().write(entries, soon=soon)


class Office:
    """A committer at work."""

    def __init__(self) -> None:
        self.broker = Noting()
        self.committer = Committer(self.broker)

    async def commit(self, number: int) -> Settlement:
        """Commit a task that sends a message on."""
        record = Entry(subject=NAMES.done("a", f"i{number}"), expect=0)
        output = Entry(subject=NAMES.task("a"), body=b"%d" % number)
        return await self.committer.commit(Effects(record=record, outputs=(output,)))

    async def end(self, number: int) -> Settlement:
        """Commit a task that sends nothing on."""
        record = Entry(subject=NAMES.done("a", f"i{number}"), expect=0)
        return await self.committer.commit(Effects(record=record))

    @property
    def sizes(self) -> list[int]:
        """How many messages each write was of."""
        return [size for _, size in self.broker.batches]


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    """A committer, ended after the test."""
    office = Office()
    work = asyncio.create_task(office.committer.run())
    yield office
    work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work


async def test_batches_do_not_follow_each_other_more_quickly_than_their_pace(
    office: Office,
) -> None:
    """Tasks that end one by one share batches, however quick the broker is."""

    async def one_by_one(lane: int) -> None:
        for number in range(5):
            await office.commit(100 * lane + number)

    await asyncio.gather(*(one_by_one(lane) for lane in range(4)))

    times = [time for time, _ in office.broker.batches]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert min(gaps) >= PACE * 0.9
    assert sum(office.sizes) == 2 * 20


async def test_the_first_batch_after_a_rest_begins_at_once(office: Office) -> None:
    """A single task does not wait for company that may never come."""
    await office.commit(1)
    await asyncio.sleep(2 * PACE)
    office.committer._begun -= 2 * PACE  # however late this test is woken
    waiting = asyncio.create_task(office.commit(2))
    for _ in range(10):
        await asyncio.sleep(0)

    assert waiting.done()
    assert (await waiting).kind is Settled.COMMITTED


async def test_a_large_group_does_not_wait(office: Office) -> None:
    """With enough tasks waiting, the batch is worth its cost."""
    await office.commit(0)
    office.committer._begun += 3600
    many = [asyncio.create_task(office.commit(number)) for number in range(1, ENOUGH + 1)]

    done = await asyncio.wait_for(asyncio.gather(*many), 10)

    assert {settlement.kind for settlement in done} == {Settled.COMMITTED}


@pytest.fixture
def _slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every pace be so long that a busy machine cannot disturb it."""
    for name, seconds in (("PACE", 0.1), ("LONG_PACE", 0.8), ("QUIET", 0.25)):
        monkeypatch.setattr(committer, name, seconds)


@pytest.mark.usefixtures("_slowly")
async def test_where_many_tasks_end_their_groups_grow_for_longer(office: Office) -> None:
    """A broker that is busy with acks takes few large batches sooner than many small ones."""
    loop = asyncio.get_running_loop()
    await office.commit(0)
    many: list[asyncio.Task[Settlement]] = []
    while loop.time() - office.broker.batches[0][0] < 0.5:
        numbers = range(len(many) + 1, len(many) + 1 + 2 * MANY // 8)
        many += [asyncio.create_task(office.commit(number)) for number in numbers]
        await asyncio.sleep(0.02)
    await asyncio.gather(*many)

    (first, _), (second, size), *_ = office.broker.batches
    assert second - first >= 0.5
    assert size == 2 * len(many)


@pytest.mark.usefixtures("_slowly")
async def test_a_group_goes_once_nobody_else_comes(office: Office) -> None:
    """The last of many tasks are not kept waiting for others."""
    await office.commit(0)
    await asyncio.gather(*(office.commit(number) for number in range(1, MANY + 1)))

    (first, _), (second, size) = office.broker.batches
    assert 0.2 <= second - first < 0.7
    assert size == 2 * MANY


@pytest.mark.usefixtures("_slowly")
async def test_a_small_group_goes_at_its_pace(office: Office) -> None:
    """Few tasks do not wait for the company of many."""
    await office.commit(0)
    await asyncio.gather(*(office.commit(number) for number in range(1, MANY)))

    (first, _), (second, _) = office.broker.batches
    assert second - first < 0.24


async def test_a_few_tasks_without_outputs_need_no_batch(office: Office) -> None:
    """Each is one message, which is stored whole or not."""
    few = await asyncio.gather(*(office.end(number) for number in range(1, FEW + 1)))

    assert office.sizes == [1] * FEW
    assert {settlement.kind for settlement in few} == {Settled.COMMITTED}


async def test_many_tasks_without_outputs_share_a_batch(office: Office) -> None:
    """One by one they would cost the broker more."""
    await asyncio.gather(*(office.end(number) for number in range(FEW + 1)))

    assert office.sizes == [FEW + 1]


async def test_a_task_with_outputs_takes_the_others_into_its_batch(office: Office) -> None:
    """What a batch costs is paid for in any case."""
    await asyncio.gather(office.end(1), office.commit(2), office.end(3))

    assert office.sizes == [4]


async def test_of_a_few_each_gets_its_own_answer(office: Office) -> None:
    """One that has ended before is told so; the others are stored."""
    await office.end(2)
    answers = await asyncio.gather(*(office.end(number) for number in (1, 2, 3)))

    assert [answer.kind for answer in answers] == [
        Settled.COMMITTED,
        Settled.ALREADY,
        Settled.COMMITTED,
    ]
