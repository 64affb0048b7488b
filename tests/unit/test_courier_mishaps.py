"""What goes wrong on a courier's way: it is buried or waits, and keeps nothing else from going."""

from collections.abc import Sequence

import msgspec
import pytest
from unit.road import HERE, THERE, Road, carried, end_pauses, expected, running, until

from scalebox_actors import courier as courier_module
from scalebox_actors.cargo import Item, Unreadable, opened
from scalebox_actors.courier import Courier
from scalebox_actors.crossing import Passage, Passed
from scalebox_actors.errors import Unavailable
from scalebox_actors.message import MSG_ID, REASON
from scalebox_actors.names import Names, bound_for, parcel_of
from scalebox_actors.ports import Delivery, Entry, Refusal, Refused
from scalebox_actors.testing.hands import MemoryDelivery
from scalebox_actors.testing.memory import MemoryBroker


@pytest.fixture(autouse=True)
def no_real_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no real time here."""
    end_pauses(monkeypatch)


async def test_what_nobody_can_read_is_set_aside_here() -> None:
    """A broken header block is a dead letter of this site and crosses no link."""
    road = Road()
    road.here.shelf.store(HERE.out("a", "calc"), b"x", {MSG_ID: "m"}, "no headers")
    async with running(road):
        await until(lambda: not road.waiting)

    assert road.there.messages() == []
    assert [m.subject for m in road.here.messages(HERE.dead("*", "*"))] == [HERE.dead("calc", "m")]


async def test_a_header_that_is_no_text_ends_no_courier() -> None:
    """Its message is buried, and what else is in the parcel goes: msgspec has its own error."""
    road = Road()
    body = b"\x92\x92\x81\xa1A\xa1\xff\xc4\x01?\x92\x80\xc4\x010"
    road.here.shelf.store(parcel_of(HERE.out("a", "calc"), 2), body, {})
    async with running(road):
        await until(lambda: not road.waiting)

    assert [m.body for m in road.there.messages()] == [b"0"]
    (letter,) = road.here.messages(HERE.dead("calc", "*"))
    assert letter.headers[REASON] == "bad_message"


async def test_one_delivery_ends_no_courier(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug of ours in one of them is told; it is given back, and others are carried meanwhile."""
    road = Road()
    road.put(1, "late")
    road.put(1)

    def stumbling(
        delivery: Delivery, here: Names, there: Names
    ) -> tuple[list[Item], list[Unreadable]]:
        if bound_for(delivery.raw.subject).module == "late":
            raise ZeroDivisionError
        return opened(delivery, here, there)

    monkeypatch.setattr(courier_module, "opened", stumbling)
    async with running(road):
        await carried(road, 1)
        monkeypatch.setattr(courier_module, "opened", opened)
        road.here.advance(6)
        await until(lambda: not road.waiting)

    assert "delivery_stumbled" in caplog.messages
    assert sorted(m.body for m in road.there.messages()) == [b"0", b"0"]


class Denying(MemoryBroker):
    """A site whose server lets nobody write letters, until it is told to."""

    denies = True

    async def write(self, entries: Sequence[Entry], *, soon: bool = True) -> Refusal | None:
        """Refuse a batch with a letter in it, as for a login without the right to write one."""
        if self.denies and any(HERE.dead("calc", "*")[:-1] in entry.subject for entry in entries):
            return Refusal(Refused.UNACCEPTABLE, "denied", denied=True)
        return await super().write(entries, soon=soon)


async def test_what_cannot_be_buried_stays(caplog: pytest.LogCaptureFixture) -> None:
    """A letter that the server refuses is no reason to drop its message, nor its neighbours."""
    road = Road()
    road.here = denying = Denying(HERE, [], tape=road.tape)
    road.here.join(road.there)
    inside = [({MSG_ID: "calc0"}, b"0"), ({MSG_ID: "bad\r\n"}, b"?")]
    road.here.shelf.store(parcel_of(HERE.out("a", "calc"), 2), msgspec.msgpack.encode(inside), {})
    road.put(1, "late")
    async with running(road):
        await carried(road, 1)
        await until(lambda: "message_postponed" in caplog.messages)
        await until(lambda: road.tape.calls.count("delivery.give_back") == 1)
        stayed = road.waiting
        denying.denies = False
        road.here.advance(6)
        await until(lambda: not road.waiting)

    assert stayed == 2
    assert sorted(m.body for m in road.there.messages()) == [b"0", b"0"]
    assert [m.body for m in road.here.messages(HERE.dead("*", "*"))] == [b"?"]


async def test_an_ack_that_fails_ends_no_courier(monkeypatch: pytest.MonkeyPatch) -> None:
    """What holds nothing to carry may lose its ack, too: it comes again and is acked then."""
    road = Road()
    road.here.shelf.store(HERE.out("a", "calc"), b"x", {MSG_ID: "m"}, "no headers")
    done, failed = MemoryDelivery.done, list[int]()

    async def failing(self: MemoryDelivery) -> None:
        if not failed:
            failed.append(self.sequence)
            raise Unavailable("the server crashed and forgot this delivery")
        await done(self)

    monkeypatch.setattr(MemoryDelivery, "done", failing)
    async with running(road):
        await until(lambda: failed)
        road.put(1)
        road.here.hand_out()
        await carried(road, 1)
        road.here.advance(61)  # the ack_wait of what was let go
        await until(lambda: not road.waiting)

    assert [m.subject for m in road.here.messages(HERE.dead("*", "*"))] == [HERE.dead("calc", "m")]


async def test_what_cannot_be_given_back_ends_no_courier(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages of a module that is absent there are let go, whether or not that is heard."""
    road = Road()
    road.there = MemoryBroker(THERE, ["late"])
    road.here.join(road.there)
    monkeypatch.setattr(Courier, "_abandoned", lambda _, lane: lane.module == "calc")
    tried = list[int]()

    async def failing(self: MemoryDelivery, delay: float) -> None:
        del delay
        tried.append(self.sequence)
        raise Unavailable("the server crashed and forgot this delivery")

    monkeypatch.setattr(MemoryDelivery, "give_back", failing)
    road.put(1)
    async with running(road):
        await until(lambda: road.courier is not None and road.courier.status().down_since)
        road.put(1, first=1)
        road.here.hand_out()
        await until(lambda: tried)
        road.put(1, "late")
        road.here.hand_out()
        await carried(road, 1)

    assert road.waiting == 2


async def test_of_a_parcel_only_what_is_missing_is_handed_over_again() -> None:
    """It is acked when the last of it has arrived, and counted once."""
    road = Road()
    handed: list[list[bytes]] = []

    class Narrow(MemoryBroker):
        """A way on which the second message gets through at the second try only."""

        async def forward(self, entries: Sequence[Entry], *, seconds: float) -> Sequence[Passage]:
            handed.append([entry.body for entry in entries])
            passages = list(await super().forward(entries, seconds=seconds))
            if len(handed) == 1:
                assert road.tape.calls.count("delivery.done") == 0
                passages[1] = Passage(Passed.SILENT, "no answer")
            return passages

    road.here = Narrow(HERE, [], tape=road.tape)
    road.here.join(road.there)
    road.enclose(0, 1, 2)
    async with running(road):
        await carried(road, 3)

    assert handed == [[b"0", b"1", b"2"], [b"1"]]
    assert (road.waiting, len(road.there.messages())) == (0, 3)
    assert await road.tally() == expected(3)


async def test_what_the_other_site_refuses_lets_others_pass() -> None:
    """A message that is too large over there waits for a person, behind all that can go."""
    road = Road()
    road.there = MemoryBroker(THERE, ["calc", "late"], max_payload=200)
    taken = road.there.take_in

    def take_in(entry: Entry) -> Passage:
        return Passage(Passed.REFUSED, "too large") if len(entry.body) > 200 else taken(entry)

    road.there.take_in = take_in  # type: ignore[method-assign]  # what JetStream answers
    road.here.join(road.there)
    road.here.shelf.store(HERE.out("a", "calc"), b"x" * 300, {MSG_ID: "large"})
    road.put(20)
    async with running(road):
        await carried(road, 20)
        assert road.courier is not None
        told = road.courier.status()

    assert (road.waiting, told.in_hand) == (1, 1)
    assert "refused" in told.why


class Slow(MemoryBroker):
    """A site with a way on which 64 kB pass in a second, and answers that come no sooner."""

    async def forward(self, entries: Sequence[Entry], *, seconds: float) -> Sequence[Passage]:
        """Hand over; who does not wait long enough hears nothing."""
        passages = await super().forward(entries, seconds=seconds)
        late = sum(len(entry.body) for entry in entries) / 64_000 > seconds
        return [Passage(Passed.SILENT, "too late")] * len(entries) if late else passages


async def test_what_is_large_crosses_a_slow_road_after_a_cut() -> None:
    """The message that asks if the link is back is given the time that it needs."""
    road = Road()
    road.here = Slow(HERE, [], tape=road.tape)
    road.here.shelf.store(HERE.out("a", "calc"), bytes(300_000), {MSG_ID: "large"})
    async with running(road):
        await until(lambda: road.courier is not None and road.courier.status().down_since)
        road.here.join(road.there)
        await carried(road, 1)

    assert [len(m.body) for m in road.there.messages()] == [300_000]


async def test_one_bad_message_of_a_parcel_is_buried_and_the_others_go() -> None:
    """Its letter has an id that follows from its place, so that it is buried once."""
    road = Road()
    inside = [({MSG_ID: "calc0"}, b"0"), ({MSG_ID: "bad\r\n"}, b"?"), ({MSG_ID: "calc1"}, b"1")]
    body = msgspec.msgpack.encode(inside)
    for _ in range(2):  # as it is when a courier dies between the burial and the ack
        road.here.shelf.store(parcel_of(HERE.out("a", "calc"), 3), body, {})
        async with running(road):
            await until(lambda: not road.waiting)
        road.here.shelf._sequence = 0

    assert sorted(m.body for m in road.there.messages()) == [b"0", b"1"]
    (letter,) = road.here.messages(HERE.dead("*", "*"))
    assert (letter.body, letter.headers[REASON]) == (b"?", "bad_message")


@pytest.mark.parametrize(
    ("subject", "body"),
    [
        pytest.param(parcel_of(HERE.out("a", "calc"), 2), b"\xff", id="no-parcel"),
        pytest.param(f"{HERE.out('a', 'calc')}.strange", b"x", id="no-number"),
        pytest.param(f"{HERE.out('a', 'calc')}.\\x80", b"x", id="no-text"),
    ],
)
async def test_what_is_no_parcel_is_buried_as_one_message(subject: str, body: bytes) -> None:
    """It holds up nothing, and an operator finds it whole."""
    road = Road()
    road.here.shelf.store(subject, body, {})
    road.put(1)
    async with running(road):
        await until(lambda: not road.waiting)

    (letter,) = road.here.messages(HERE.dead("calc", "*"))
    assert (letter.body, [m.body for m in road.there.messages()]) == (body, [b"0"])
