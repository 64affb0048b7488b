"""What `MemoryBroker` offers beyond the port: its clock, its crashes and its tape."""

import asyncio

import pytest

from scalebox_actors.errors import RuntimeUnavailable, Unavailable
from scalebox_actors.limits import ACK_WAIT
from scalebox_actors.message import MSG_ID
from scalebox_actors.names import Names
from scalebox_actors.ports import Delivery, Entry, Intake
from scalebox_actors.testing.memory import MemoryBroker
from scalebox_actors.testing.shelf import WINDOW
from scalebox_actors.testing.tape import Fault, Killed, Tape

NAMES = Names("app")
RECORD = Entry(subject=NAMES.done("calc", "a"), expect=0)


def broker(faults: dict[int, Fault] | None = None) -> MemoryBroker:
    """A broker for one module, whose tape holds `faults`."""
    return MemoryBroker(NAMES, ["calc"], tape=Tape(faults))


async def take(intake: Intake) -> Delivery:
    """The next delivery, which must be there."""
    async with asyncio.timeout(1):
        return await anext(aiter(intake))


async def idle(intake: Intake) -> bool:
    """Whether the intake has nothing to give."""
    waiting = asyncio.ensure_future(anext(aiter(intake)))
    for _ in range(5):
        await asyncio.sleep(0)
    if waiting.done():
        return False
    waiting.cancel()
    return True


async def test_what_was_let_go_comes_again_after_ack_wait() -> None:
    """Only the broker's own clock brings it back, marked as delivered before."""
    memory = broker()
    memory.send("calc", b"x", {MSG_ID: "m"})
    async with memory.intake("calc") as intake:
        intake.grant(2)
        (await take(intake)).let_go()
        memory.advance(ACK_WAIT - 1)
        early = await idle(intake)
        memory.advance(1)
        again = await take(intake)

    assert early
    assert (again.message_id, again.redelivered) == ("m", True)


async def test_what_is_in_hand_stays_in_hand() -> None:
    """Nobody else gets a message while its holder lives, however long it takes."""
    memory = broker()
    memory.send("calc", b"x")
    async with memory.intake("calc") as one, memory.intake("calc") as two:
        one.grant(1)
        await take(one)
        two.grant(1)
        memory.advance(100 * ACK_WAIT)

        assert await idle(two)


async def test_redeliver_does_not_wait() -> None:
    """`redeliver` hands out at once what was let go or given back for long."""
    memory = broker()
    memory.send("calc", b"1")
    memory.send("calc", b"2")
    async with memory.intake("calc") as intake:
        intake.grant(2)
        (await take(intake)).let_go()
        await (await take(intake)).give_back(1000)
        memory.redeliver()
        intake.grant(2)

        assert {(await take(intake)).raw.body for _ in range(2)} == {b"1", b"2"}


async def test_a_crash_ends_the_intakes() -> None:
    """After a crash the old intake is over, and its messages wait for their `ack_wait`."""
    memory = broker()
    memory.send("calc", b"x")
    async with memory.intake("calc") as intake:
        intake.grant(1)
        held = await take(intake)
        memory.crash()
        with pytest.raises(StopAsyncIteration):
            await anext(aiter(intake))
    async with memory.intake("calc") as reborn:
        reborn.grant(1)
        early = await idle(reborn)
        memory.advance(ACK_WAIT)
        again = await take(reborn)
        await held.done()  # a stale ack is accepted, as JetStream accepts it

    assert early
    assert again.redelivered
    assert memory.messages() == []


async def test_ids_are_forgotten_after_the_window_and_at_a_restart() -> None:
    """The window is a convenience: time ends it, and so does `forget_ids`."""
    entry = Entry(subject=NAMES.task("calc"), headers={MSG_ID: "m"})
    memory = broker()
    first = await memory.write([entry])
    second = await memory.write([entry])
    memory.advance(WINDOW + 1)
    third = await memory.write([entry])
    memory.forget_ids()
    fourth = await memory.write([entry])

    assert (first, third, fourth) == (None, None, None)
    assert second is not None


async def test_a_full_stream_waits_for_room() -> None:
    """While it is full a write waits; nothing is dropped."""
    memory = broker()
    memory.fill()
    writing = asyncio.ensure_future(memory.write([RECORD]))
    for _ in range(5):
        await asyncio.sleep(0)
    waited = not writing.done()
    memory.make_room()

    assert await writing is None
    assert waited


async def test_a_pause_holds_messages_back() -> None:
    """A paused module's messages come when the pause is over."""
    memory = broker()
    memory.pause("calc", 60)
    memory.send("calc", b"x")
    async with memory.intake("calc") as intake:
        intake.grant(1)
        held = await idle(intake)
        until = (await memory.backlog("calc")).paused_until
        memory.advance(61)
        await take(intake)

    assert held
    assert until == memory.now - 1


async def test_a_faulty_message_is_delivered_with_its_fault() -> None:
    """`send` stores what only a hostile client would."""
    memory = broker()
    memory.send("calc", b"x", fault="the header block of 1 bytes cannot be read")
    async with memory.intake("calc") as intake:
        intake.grant(1)

        assert "1 bytes" in (await take(intake)).raw.fault


async def test_the_tape_numbers_every_call() -> None:
    """Each call of the port is written down under its name, in order."""
    memory = broker()
    await memory.write([RECORD])
    memory.send("calc", b"x")
    async with memory.intake("calc") as intake:
        intake.grant(1)
        await (await take(intake)).done()
    await memory.read(RECORD.subject)

    assert memory.tape.calls == ["broker.write", "intake.pull", "delivery.done", "broker.read"]


@pytest.mark.parametrize(
    ("fault", "error", "stored"),
    [
        (Fault.FAIL_BEFORE, Unavailable, 0),
        (Fault.FAIL_AFTER, Unavailable, 1),
        (Fault.CANCEL, asyncio.CancelledError, 0),
        (Fault.CANCEL_AFTER, asyncio.CancelledError, 1),
        (Fault.KILL, Killed, 0),
        (Fault.KILL_AFTER, Killed, 1),
    ],
)
async def test_a_fault_happens_at_its_call(
    fault: Fault, error: type[BaseException], stored: int
) -> None:
    """The second call goes wrong, before or after it was done; the first does not."""
    memory = broker({2: fault})
    await memory.clock()

    async def write() -> None:
        await memory.write([RECORD])

    with pytest.raises(error):
        await asyncio.ensure_future(write())

    assert len(memory.messages()) == stored
    assert memory.tape.dead is (error is Killed)


async def test_the_dead_do_nothing_more() -> None:
    """After a kill no call is done, until a new life begins."""
    memory = broker({1: Fault.KILL})
    for _ in range(2):
        with pytest.raises(Killed):
            await memory.write([RECORD])
    memory.tape.next_life()

    assert await memory.write([RECORD]) is None


async def test_a_runtime_can_share_the_tape() -> None:
    """`step` numbers the calls of other doubles; their failure is the runtime's own error."""
    tape = Tape({1: Fault.FAIL_BEFORE})
    with pytest.raises(RuntimeUnavailable):
        await tape.step("runtime.find")
    await tape.step("runtime.find")

    assert tape.calls == ["runtime.find", "runtime.find"]
