"""Group commit of what goes to other sites: a parcel for a group, of what is committed alone."""

import asyncio

from scalebox_actors.committer import Committer
from scalebox_actors.effects import Effects
from scalebox_actors.message import MSG_ID, Raw
from scalebox_actors.names import Names, bound_for
from scalebox_actors.parcel import unpack
from scalebox_actors.ports import Entry, Stored
from scalebox_actors.records import Settled, Settlement
from scalebox_actors.testing.memory import MemoryBroker

NAMES = Names("t", "hub")


def ended(number: int, *targets: str) -> Effects:
    """The end of a task that sends a message to each of these sites."""
    record = Entry(subject=NAMES.done("calc", f"t{number}"), body=b"{}", expect=0)
    crossing = tuple(
        Entry(subject=NAMES.out(site, "far"), body=b"%d" % number, headers={MSG_ID: f"{number}{n}"})
        for n, site in enumerate(targets)
    )
    return Effects(record=record, crossing=crossing)


async def committed(broker: MemoryBroker, *effects: Effects) -> list[Settlement]:
    """Commit tasks that have ended at the same time."""
    committer = Committer(broker)
    answers = [asyncio.ensure_future(committer.commit(one)) for one in effects]
    await asyncio.sleep(0)
    working = asyncio.create_task(committer.run())
    found = await asyncio.gather(*answers)
    working.cancel()
    return found


def waits(broker: MemoryBroker) -> list[tuple[str, list[bytes]]]:
    """What waits to be carried: subjects and bodies."""
    return [(m.subject, bodies(m)) for m in broker.messages(NAMES.out("*", ">"))]


def bodies(stored: Stored) -> list[bytes]:
    """The bodies of what is stored as one message."""
    bound = bound_for(stored.subject)
    raw = Raw(subject=stored.subject, body=stored.body, headers=stored.headers)
    return [one.body for one in (unpack(raw, bound.count) if bound.parcel else [raw])]


async def test_what_tasks_of_one_group_send_to_one_module_is_one_message() -> None:
    """A parcel for each site, in the same batch as the records."""
    broker = MemoryBroker(NAMES, ["calc"])
    await committed(broker, ended(1, "a", "a"), ended(2, "a", "b"), ended(3, "a"))

    assert waits(broker) == [
        ("sbx.t.hub.out.a.far.x4", [b"1", b"1", b"2", b"3"]),
        ("sbx.t.hub.out.b.far", [b"2"]),
    ]
    assert broker.tape.calls == ["broker.write"]


async def test_what_a_refused_task_would_send_is_in_no_parcel() -> None:
    """One task of the group had ended before: nothing of it is sent, all of the others is."""
    broker = MemoryBroker(NAMES, ["calc"])
    await broker.write([ended(2).record])
    answers = await committed(broker, ended(1, "a"), ended(2, "a"), ended(3, "a"))
    sent = [body for _, inside in waits(broker) for body in inside]

    assert [answer.kind for answer in answers] == [
        Settled.COMMITTED,
        Settled.ALREADY,
        Settled.COMMITTED,
    ]
    assert sorted(sent) == [b"1", b"3"]


async def test_what_is_stored_already_is_left_out() -> None:
    """A lone message for another site that is there already holds up nobody, its parent least."""
    broker = MemoryBroker(NAMES, ["calc"])
    task = ended(1, "a")
    await broker.write(task.crossing)
    answers = await committed(broker, task, ended(2, "b"))

    assert [answer.kind for answer in answers] == [Settled.COMMITTED] * 2
    assert waits(broker) == [("sbx.t.hub.out.a.far", [b"1"]), ("sbx.t.hub.out.b.far", [b"2"])]
