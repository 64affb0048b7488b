"""Groups whose time is up are let go or buried, once, and what was replaced is purged."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from scalebox_actors import groups
from scalebox_actors.committer import Committer
from scalebox_actors.effects import DETAIL, Effects, Scribe
from scalebox_actors.errors import Unavailable
from scalebox_actors.groups import Groups
from scalebox_actors.journal import Counts
from scalebox_actors.message import JOINED, REASON, Message
from scalebox_actors.names import Names
from scalebox_actors.records import Settled, Settlement
from scalebox_actors.testing.memory import MemoryBroker
from scalebox_actors.topology.model import Duration, Gather, Module, Topology

NAMES = Names("t")


class Room:
    """A gathering module on a broker in memory, with a committer that members go through."""

    def __init__(self, rules: Gather) -> None:
        module = Module(name="g", gather=rules)
        self.broker = MemoryBroker(NAMES, ["g"])
        self.scribe = Scribe(
            topology=Topology(name="t", modules={"g": module}),
            names=NAMES,
            node="n1",
            body_limit=self.broker.body_limit,
        )
        self.committer = Committer(self.broker)
        self.counts = Counts()
        self.groups = Groups(module, self.broker, self.scribe, self.counts)

    def member(self, number: int, day: str = "monday") -> Effects:
        """Return what the arrival of member `number` of a group stores."""
        headers = {"day": day, "parts": "3"}
        message = Message(module="g", id=f"i{number}", body=b"x", headers=headers)
        return self.scribe.member(message)

    async def join(self, number: int, day: str = "monday") -> Settlement:
        """Let member `number` of a group arrive now."""
        return await self.committer.commit(self.member(number, day))

    def joined(self) -> list[dict[str, object]]:
        """The bodies of the joined messages that were sent."""
        sent = self.broker.messages(NAMES.task("g"))
        return [msgspec.json.decode(stored.body) for stored in sent if JOINED in stored.headers]


@pytest.fixture
async def room(request: pytest.FixtureRequest) -> AsyncIterator[Room]:
    """A room with the rules that a test asks for."""
    room = Room(getattr(request, "param", Gather(by="day", count="parts", timeout=Duration(10))))
    work = asyncio.create_task(room.committer.run())
    yield room
    work.cancel()


async def test_an_open_group_is_seen(room: Room) -> None:
    """Who waits for members can be asked, with how many have come."""
    await room.join(1)

    (group,) = await room.groups.open()

    assert (group.key, group.count, group.need) == ("monday", 1, 3)


async def test_before_its_time_nothing_happens(room: Room) -> None:
    """A sweep leaves a group alone as long as its timeout has not passed."""
    await room.join(1)
    room.broker.advance(9)

    await room.groups.sweep()

    assert room.joined() == []
    assert len(await room.groups.open()) == 1


async def test_too_few_members_are_buried(room: Room) -> None:
    """Without `min_ok` an incomplete group is dead, with its name and numbers, and counted."""
    await room.join(1)
    await room.join(2)
    room.broker.advance(11)

    await room.groups.sweep()
    await room.groups.sweep()

    (letter,) = room.broker.messages(NAMES.dead("g", "*"))
    assert letter.headers[REASON] == "incomplete"
    assert letter.headers[DETAIL] == "group 'monday': 2 of 3 members came in time"
    assert room.counts.dead == 1
    assert room.joined() == []
    assert await room.groups.open() == []


@pytest.mark.parametrize(
    "room", [Gather(by="day", count="parts", timeout=Duration(10), min_ok=2)], indirect=True
)
async def test_enough_members_are_let_go(room: Room) -> None:
    """With `min_ok` reached at the timeout the group goes on with those that came."""
    await room.join(1)
    await room.join(2)
    room.broker.advance(11)

    await room.groups.sweep()
    await room.groups.sweep()

    assert room.joined() == [{"group": "monday", "count": 2, "need": 3}]
    assert room.counts.dead == 0


async def test_who_comes_too_late_is_told(room: Room) -> None:
    """A member of a group that was let go is not swallowed: it is late."""
    await room.join(1)
    room.broker.advance(11)
    await room.groups.sweep()

    settlement = await room.join(2)

    assert settlement.kind is Settled.LATE


async def test_a_second_copy_of_a_member_is_not_late(room: Room) -> None:
    """It was counted before its group was let go, and there is nothing to bury."""
    for number in (1, 2, 3):
        await room.join(number)
    room.broker.advance(40)  # past the time in which the server knows its id

    assert (await room.join(2)).kind is Settled.ALREADY


@pytest.mark.parametrize("body", [b"not json", b'{"module":"g","key":"monday","need":0}'])
async def test_a_count_that_cannot_be_read_stops_nobody(room: Room, body: bytes) -> None:
    """Its members are refused, with the reason; those of other groups are counted."""
    joining = room.member(1).joining
    assert joining is not None
    room.broker.shelf.store(joining.subject, body, {})

    async with asyncio.timeout(5):
        bad, good = await asyncio.gather(room.join(1), room.join(2, day="tuesday"))

    assert (bad.kind, good.kind) == (Settled.UNACCEPTABLE, Settled.COMMITTED)
    assert "the count of a group cannot be" in bad.text
    assert [group.key for group in await room.groups.open()] == ["tuesday"]


async def test_counts_that_were_replaced_are_purged(room: Room) -> None:
    """Of a group's counts only the newest is kept."""
    await room.join(1)
    await room.join(2)
    assert len(room.broker.messages(NAMES.group("g", "*"))) == 2

    await room.groups.sweep()

    (count,) = room.broker.messages(NAMES.group("g", "*"))
    assert msgspec.json.decode(count.body)["count"] == 2


async def test_a_purge_that_failed_is_made_up_for(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next sweep looks at the same counts again."""

    async def nobody(*_: object, **__: object) -> None:
        raise Unavailable("nobody answers")

    for number in (1, 2, 3):
        await room.join(number)
    with monkeypatch.context() as away:
        away.setattr(room.broker, "purge", nobody)
        with pytest.raises(Unavailable):
            await room.groups.sweep()
    await room.groups.open()
    await room.groups.sweep()

    assert len(room.broker.messages(NAMES.group("g", "*"))) == 1


async def test_two_nodes_bury_a_group_once(room: Room) -> None:
    """Who loses the race for a group leaves it alone."""
    other = Groups(room.groups._module, room.broker, room.scribe, room.counts)
    await room.join(1)
    room.broker.advance(11)

    await asyncio.gather(room.groups.sweep(), other.sweep())

    assert len(room.broker.messages(NAMES.dead("g", "*"))) == 1
    assert room.counts.dead == 1


async def test_members_that_waited_for_an_outage_are_not_late(room: Room) -> None:
    """A group's time begins when its first member is taken, not when that was sent."""
    room.broker.advance(1000)  # all three were sent long ago
    await room.join(1)

    await room.groups.sweep()
    await room.join(2)
    await room.join(3)

    assert [body["count"] for body in room.joined()] == [3]


async def test_later_counts_keep_the_first_time(room: Room) -> None:
    """A group that gets member after member still ends at its timeout."""
    await room.join(1)
    room.broker.advance(8)
    await room.join(2)
    room.broker.advance(3)

    await room.groups.sweep()

    assert len(room.broker.messages(NAMES.dead("g", "*"))) == 1


async def test_closed_groups_hide_no_open_one(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many groups were let go today, the open ones are found and looked at."""
    monkeypatch.setattr(groups, "PAGE", 2)
    for number in range(7):
        await room.join(number, day=f"d{number // 3}")

    await room.groups.sweep()
    (group,) = await room.groups.open()

    assert (group.key, group.count) == ("d2", 1)
    assert room.groups._start > 1
