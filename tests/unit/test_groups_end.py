"""How a group ends: its members go with its joined task, and later its name is free again."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from scalebox_actors.broker.streams import DUPLICATE_WINDOW
from scalebox_actors.errors import Unavailable
from scalebox_actors.gather import token_of
from scalebox_actors.groups import ID_WINDOW, LONGER, Groups, forget
from scalebox_actors.launch.function import FunctionLauncher
from scalebox_actors.message import JOINED, MSG_ID, REASON, Message
from scalebox_actors.names import Names
from scalebox_actors.node import Node, Settings
from scalebox_actors.ports import Stored
from scalebox_actors.records import DoneRecord, Ended
from scalebox_actors.testing.memory import MemoryBroker
from scalebox_actors.topology.model import Duration, Gather, Launch, Module, Retry, Topology

NAMES = Names("t")
REMEMBER = 60
FREE = REMEMBER + LONGER
"""Seconds after which a name is free again."""


class Lab:
    """A node with one gathering function on a broker in memory."""

    def __init__(self, base: Path) -> None:
        module = Module(
            name="g",
            function="crash_functions:once",
            launch=Launch.FUNCTION,
            slots=4,
            gather=Gather(by="^(...)", count=2),
            retry=Retry(rules={"*": 0}),
        )
        self.broker = MemoryBroker(NAMES, ["g"])
        topology = Topology(name="t", modules={"g": module}, remember=Duration(REMEMBER))
        settings = Settings(name="n1", base=base, folder=Path(__file__).parent)
        self.node = Node(topology, self.broker, None, settings)
        self.actor = self.node.actors["g"]
        self.ran: list[list[str]] = []
        """The members of each run."""
        self.during: Callable[[], Awaitable[object]] | None = None
        """What happens in the middle of the next run."""
        launcher = self.actor._launcher
        assert isinstance(launcher, FunctionLauncher)
        launcher._function = self._run

    async def _run(self, message: Message) -> bytes:
        self.ran.append(sorted(msgspec.json.decode(message.body)["members"]))
        during, self.during = self.during, None
        if during is not None:
            await during()
        return message.body

    def send(self, *bodies: str) -> None:
        """Send members, each with an id of its own."""
        for body in bodies:
            self.broker.send("g", body.encode(), {MSG_ID: body.replace("/", "-")})

    async def feed(self, *bodies: str) -> None:
        """Let members come one after the other, and wait until nothing is left to do."""
        for body in bodies:
            self.send(body)
            await self.idle()

    async def idle(self) -> None:
        """Wait until nothing is left to do; what was given back comes again at once."""
        async with asyncio.timeout(10):
            while self.broker.messages(NAMES.task("g")) or len(self.actor._hands):
                await asyncio.sleep(0.002)
                self.broker.redeliver()

    def left(self) -> int:
        """How many counts and members are stored."""
        return len(self.broker.messages("sbx.t.local.join.>"))

    def dead(self) -> dict[str, str]:
        """Why what was buried."""
        letters = self.broker.messages(NAMES.dead("g", "*"))
        return {one.subject.rpartition(".")[2]: one.headers[REASON] for one in letters}

    async def open(self) -> list[str]:
        """The groups that a node would wait for that starts now."""
        node = self.node
        groups = Groups(self.actor.module, self.broker, node._scribe, node.journal.of("g"))
        return [group.key for group in await groups.open()]


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    """A node at work, which never sweeps."""
    lab = Lab(tmp_path)
    work = [asyncio.create_task(lab.node._committer.run()), asyncio.create_task(lab.actor.run())]
    yield lab
    for task in work:
        task.cancel()
    await asyncio.gather(*work, return_exceptions=True)


async def test_a_group_that_was_let_go_never_opens_again(lab: Lab) -> None:
    """Nobody sweeps, and when its last count has gone no earlier one is left."""
    await lab.feed("obs/1", "obs/2")
    closed = lab.left()
    lab.broker.advance(FREE)

    assert closed == 1
    assert (lab.left(), await lab.open()) == (0, [])


async def test_a_name_is_in_use_as_long_as_its_run_lasts(lab: Lab) -> None:
    """However much longer than `remember` that is: who comes meanwhile is late."""

    async def much_later() -> None:
        lab.broker.advance(10 * REMEMBER)
        lab.send("obs/3")
        async with asyncio.timeout(10):
            while not lab.dead():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.002)

    lab.during = much_later
    await lab.feed("obs/1", "obs/2")

    assert lab.ran == [["obs/1", "obs/2"]]
    assert lab.dead() == {"obs-3": "late"}
    assert len(lab.broker.messages(NAMES.result("g"))) == 1
    assert await lab.open() == []


async def test_a_name_is_free_when_no_record_of_its_joined_task_is_left(lab: Lab) -> None:
    """Not when `remember` has passed since the release: a second group would find that record."""

    async def long() -> None:
        lab.broker.advance(REMEMBER - 1)

    lab.during = long
    await lab.feed("obs/1", "obs/2")
    lab.broker.advance(REMEMBER - 1)
    await lab.feed("obs/3", "obs/4")
    lab.broker.advance(FREE)
    await lab.feed("obs/5", "obs/6")

    assert lab.dead() == {"obs-3": "late", "obs-4": "late"}
    assert lab.ran == [["obs/1", "obs/2"], ["obs/5", "obs/6"]]
    assert len(lab.broker.messages(NAMES.result("g"))) == 2
    assert lab.left() == 1


@pytest.mark.parametrize("call", range(6))
async def test_what_fails_at_the_end_of_a_group_is_done_later(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """Whichever call fails after the run was stored: the message comes again and all is tidied."""
    calls = 0

    def failing(name: str) -> None:
        real = getattr(lab.broker, name)

        async def maybe(*args: object, **named: object) -> object:
            nonlocal calls
            if lab.broker.messages(NAMES.result("g")):
                calls += 1
                if calls == call:
                    raise Unavailable("nobody answers")
            return await real(*args, **named)

        monkeypatch.setattr(lab.broker, name, maybe)

    for name in ("read", "write", "purge"):
        failing(name)
    await lab.feed("obs/1")
    await lab.feed("obs/2")
    (count,) = lab.broker.messages("sbx.t.local.join.>")
    lab.broker.advance(FREE)

    assert calls >= 4
    assert (count.headers, lab.left()) == ({"Nats-TTL": f"{FREE:.0f}s"}, 0)
    assert lab.ran == [["obs/1", "obs/2"]]


async def test_the_name_of_a_dead_group_is_in_use_until_its_letter_is_dealt_with(lab: Lab) -> None:
    """Its members are kept for that, and must not be mixed with others."""

    async def fail() -> None:
        raise ValueError

    lab.during = fail
    await lab.feed("obs/1", "obs/2")
    lab.broker.advance(10 * REMEMBER)
    await lab.feed("obs/3")
    (letter,) = (one for one in lab.broker.messages(NAMES.dead("g", "*")) if JOINED in one.headers)
    again = {JOINED: letter.headers[JOINED], MSG_ID: "retry"}
    lab.broker.send("g", letter.body, again)
    await lab.idle()
    lab.broker.advance(FREE)
    await lab.feed("obs/5", "obs/6")

    assert lab.ran == [["obs/1", "obs/2"], ["obs/1", "obs/2"], ["obs/5", "obs/6"]]
    assert sorted(lab.dead().values()) == ["late", "no_rule"]


async def test_a_group_whose_run_fails_after_it_was_cancelled_is_forgotten(lab: Lab) -> None:
    """What has ended is decided by the record, not by the run that comes too late."""

    async def cancelled() -> None:
        (joined,) = lab.broker.messages(NAMES.task("g"))
        record = msgspec.json.encode(DoneRecord(ended=Ended.CANCELLED))
        lab.broker.shelf.store(NAMES.done("g", joined.headers[MSG_ID]), record, {})
        raise ValueError

    lab.during = cancelled
    await lab.feed("obs/1", "obs/2")

    assert lab.dead() == {}
    assert lab.left() == 1


def forged(lab: Lab) -> str:
    """Let somebody send a message that says to be the joined one of a group."""
    token = token_of("g", "obs")
    lab.broker.send("g", b'{"group":"obs"}', {JOINED: token, MSG_ID: "forged"})
    return token


async def test_a_sender_cannot_end_a_group_that_waits(lab: Lab) -> None:
    """What only says to be joined is buried; the group goes on, also if its letter is dropped."""
    await lab.feed("obs/1")
    token = forged(lab)
    await lab.idle()
    dropped = await forget(lab.broker, "g", token, remember=REMEMBER)
    await lab.feed("obs/2")

    assert (lab.dead(), dropped) == ({"forged": "bad_message"}, False)
    assert lab.ran == [["obs/1", "obs/2"]]


async def test_without_a_group_there_is_nothing_to_run(lab: Lab) -> None:
    """A message that says to be joined, of a group that nobody knows, is buried."""
    forged(lab)
    await lab.idle()

    assert lab.dead() == {"forged": "bad_message"}
    assert lab.ran == []


@pytest.mark.parametrize("lagging", [1, 2])
async def test_a_replica_that_lags_behind_buries_no_group(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, lagging: int
) -> None:
    """If the release is not to be seen yet, before the run or after it, it is looked for again."""
    subject = NAMES.group("g", token_of("g", "obs"))
    await lab.feed("obs/1")
    old, real, reads = lab.broker.shelf.last(subject), lab.broker.read, 0

    async def read(asked: str) -> Stored | None:
        nonlocal reads
        if asked == subject and len(lab.broker.messages(subject)) > 1:
            reads += 1
            if reads == lagging:
                return old
        return await real(asked)

    monkeypatch.setattr(lab.broker, "read", read)
    await lab.feed("obs/2")

    assert lab.ran == [["obs/1", "obs/2"]]
    assert (lab.dead(), lab.left()) == ({}, 1)


def test_the_server_knows_ids_no_longer_than_a_group_stays_closed() -> None:
    """Else the joined message of a second group of the name would be refused for a while."""
    assert DUPLICATE_WINDOW <= ID_WINDOW
