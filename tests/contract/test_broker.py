"""What every broker promises of writing, reading and asking: the double and JetStream alike."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from contract.brokerage import CALC, KINDS, NAMES, Bench, bodies, open_bench, record, task

from scalebox_actors.limits import BATCH_MESSAGES, MIB
from scalebox_actors.message import MSG_ID, MSG_TTL
from scalebox_actors.ports import Entry, Refused


@pytest.fixture(params=KINDS)
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    """Each broker in turn, with the streams of one topology and nothing in them."""
    async with open_bench(request, tmp_path) as made:
        yield made


async def test_a_batch_is_stored_whole_and_in_order(bench: Bench) -> None:
    """All entries of a batch are stored, in their order."""
    entries = [record("a"), *(task(n) for n in range(5))]

    assert await bench.write(entries) is None
    assert await bodies(bench.broker, CALC) == [b"0", b"1", b"2", b"3", b"4"]
    assert await bodies(bench.broker, NAMES.done("calc", ">")) == [b"{}"]


async def test_a_batch_may_have_a_thousand_entries(bench: Bench) -> None:
    """The largest batch is stored, one entry more is refused without harm."""
    assert await bench.write([task(n) for n in range(BATCH_MESSAGES)]) is None
    refusal = await bench.write([task(n) for n in range(5000, 5001 + BATCH_MESSAGES)])

    assert refusal is not None
    assert refusal.kind is Refused.UNACCEPTABLE
    assert (await bench.broker.backlog("calc")).waiting == BATCH_MESSAGES


async def test_nothing_to_write_is_written_at_once(bench: Bench) -> None:
    """An empty batch succeeds."""
    assert await bench.write([]) is None


def _spoilt(kind: Refused) -> Sequence[Entry]:
    """Entries that each spoil a batch when `m1` and the record `there` are stored."""
    return {
        Refused.CONFLICT: [record("there"), record("absent", expect=7)],
        Refused.DUPLICATE: [task(1)],
        Refused.UNACCEPTABLE: [
            Entry(subject=NAMES.task("clac")),
            Entry(subject="elsewhere.x"),
            Entry(subject=NAMES.done("calc", "*")),
            Entry(subject=NAMES.done("calc", "two words")),
            Entry(subject=CALC, body=bytes(MIB + 1)),
            Entry(subject=CALC, headers={"X": "line\r\nbreak"}),
            Entry(subject=CALC, headers={"X": "übel"}),
        ],
    }[kind]


@pytest.mark.parametrize("place", [0, 2, 4], ids=["first", "middle", "last"])
@pytest.mark.parametrize("kind", list(Refused))
async def test_one_bad_member_refuses_the_whole_batch(
    bench: Bench, kind: Refused, place: int
) -> None:
    """Wherever the bad member stands, its kind is told and nothing of the batch is stored."""
    await bench.write([task(1), record("there")])
    for bad in _spoilt(kind):
        batch = [task(10 + n) for n in range(4)]
        batch.insert(place, bad)

        refusal = await bench.write(batch)

        assert refusal is not None, bad.subject
        assert refusal.kind is kind, (bad.subject, refusal)
        assert await bodies(bench.broker, CALC) == [b"1"]


@pytest.mark.parametrize("kind", list(Refused))
async def test_a_lone_entry_is_refused_like_a_batch(bench: Bench, kind: Refused) -> None:
    """A single entry has the same semantics as a batch of several."""
    await bench.write([task(1), record("there")])
    for bad in _spoilt(kind):
        refusal = await bench.write([bad])

        assert refusal is not None, bad.subject
        assert refusal.kind is kind, (bad.subject, refusal)
    assert len(await bench.broker.read_all(">")) == 2


async def test_two_members_with_one_record_conflict(bench: Bench) -> None:
    """A batch that holds the same record twice is refused as a conflict."""
    refusal = await bench.write([record("a"), task(1), record("a")])

    assert refusal is not None
    assert refusal.kind is Refused.CONFLICT


async def test_two_members_with_one_id_are_duplicates(bench: Bench) -> None:
    """A batch that holds the same id twice is refused, and `duplicates` names the second."""
    batch = [task(1), task(2), task(1)]
    refusal = await bench.write(batch)

    assert refusal is not None
    assert refusal.kind is Refused.DUPLICATE
    assert await bench.broker.duplicates(batch) == {2}


async def test_an_expectation_follows_the_subject(bench: Bench) -> None:
    """A subject is replaced by whoever knows its last sequence, and by nobody else."""
    count = NAMES.group("calc", "g")
    await bench.write([Entry(subject=count, body=b"1", expect=0)])
    first = await bench.broker.read(count)
    assert first is not None

    assert await bench.write([Entry(subject=count, body=b"2", expect=first.sequence)]) is None
    refusal = await bench.write([Entry(subject=count, body=b"x", expect=first.sequence), task(1)])
    last = await bench.broker.read(count)

    assert refusal is not None
    assert refusal.kind is Refused.CONFLICT
    assert last is not None
    assert (last.body, last.sequence > first.sequence) == (b"2", True)


async def test_two_writers_of_one_record_have_one_winner(bench: Bench) -> None:
    """Of many concurrent batches with the same record exactly one is stored, whole."""
    batches = [[record("a"), task(n), task(100 + n)] for n in range(20)]

    refusals = await asyncio.gather(*map(bench.write, batches))

    winners = [n for n, refusal in enumerate(refusals) if refusal is None]
    assert len(winners) == 1
    assert await bodies(bench.broker, CALC) == [b"%d" % winners[0], b"%d" % (100 + winners[0])]


async def test_duplicates_names_what_is_stored_and_stores_nothing(bench: Bench) -> None:
    """The entries whose ids are in the window are found, all others are left alone."""
    await bench.write([task(1), task(3)])
    asked = [task(1), task(2), task(3), Entry(subject=CALC), task(4)]

    assert await bench.broker.duplicates(asked) == {0, 2}
    assert await bench.write([task(2), task(4)]) is None
    assert await bodies(bench.broker, CALC) == [b"1", b"3", b"2", b"4"]


async def test_what_is_read_is_what_was_written(bench: Bench) -> None:
    """Body and headers come back byte for byte, the place and the time with them."""
    body = bytes(range(256))
    before = await bench.broker.clock()
    await bench.write([Entry(subject=CALC, body=body, headers={"Sbx-Root": "r: x", MSG_ID: "i"})])

    found = await bench.broker.read(CALC)

    assert found is not None
    assert (found.subject, found.body) == (CALC, body)
    assert dict(found.headers) == {"Sbx-Root": "r: x", MSG_ID: "i"}
    assert found.sequence == 1
    assert abs(found.time - before) < 5


async def test_how_it_was_written_is_not_read(bench: Bench) -> None:
    """What was stored in a batch reads like what was stored alone: it can be written again."""
    entry = Entry(subject=NAMES.result("calc"), body=b"x", headers={"Sbx-Root": "r"}, expect=0)
    await bench.write([record("a"), entry, task(1)])

    found = await bench.broker.read(entry.subject)

    assert found is not None
    assert dict(found.headers) == {"Sbx-Root": "r"}


async def test_what_is_not_there_is_none(bench: Bench) -> None:
    """An empty subject reads as None and an empty pattern as an empty list."""
    assert await bench.broker.read(NAMES.done("calc", "x")) is None
    assert await bench.broker.read_all(NAMES.done("calc", "*")) == []
    assert await bench.broker.get_state("try.calc.x") is None


async def test_read_all_takes_the_oldest(bench: Bench) -> None:
    """With a bound the oldest messages are returned, over as many pages as it takes."""
    await bench.write([task(n) for n in range(1000)])
    await bench.write([task(n) for n in range(1000, 1500)])

    everything = await bodies(bench.broker, NAMES.task("*"))
    assert everything == [b"%d" % n for n in range(1500)]
    assert len(await bench.broker.read_all(CALC, most=1200)) == 1200


async def test_purge_keeps_the_newest_of_each_subject(bench: Bench) -> None:
    """Only matching subjects are purged, and of each the newest stay."""
    for subject in (NAMES.group("calc", "a"), NAMES.group("calc", "b"), NAMES.group("merge", "c")):
        for body in (b"1", b"2", b"3"):
            await bench.write([Entry(subject=subject, body=body)])

    await bench.broker.purge(NAMES.group("calc", "*"), keep=1)
    kept = await bodies(bench.broker, NAMES.group("calc", "*"))
    await bench.broker.purge(NAMES.group("calc", "*"))

    assert kept == [b"3", b"3"]
    assert await bodies(bench.broker, NAMES.group("calc", "*")) == []
    assert await bodies(bench.broker, NAMES.group("merge", "*")) == [b"1", b"2", b"3"]


async def test_a_life_ends(bench: Bench) -> None:
    """A message with a TTL and a state with a life are forgotten, others are not."""
    await bench.write(
        [Entry(subject=NAMES.done("calc", "a"), headers={MSG_TTL: "1s"}), record("b")]
    )
    await bench.broker.put_state("node.short", b"1", life=1)
    await bench.broker.put_state("node.long", b"2")
    assert await bench.broker.get_state("node.short") == b"1"
    assert set(await bench.broker.state_keys("node")) == {"node.short", "node.long"}

    await bench.pass_time(2.5)

    assert await bench.broker.read(NAMES.done("calc", "a")) is None
    assert await bench.broker.get_state("node.short") is None
    assert await bench.broker.get_state("node.long") == b"2"
    assert await bench.broker.state_keys("node") == ["node.long"]
    assert len(await bench.broker.read_all(">")) == 1
    assert await bench.write([record("a")]) is None


async def test_state_is_replaced(bench: Bench) -> None:
    """The last value of a key counts."""
    await bench.broker.put_state("try.calc.x", b"1", life=60)
    await bench.broker.put_state("try.calc.x", b"2", life=60)

    assert await bench.broker.get_state("try.calc.x") == b"2"


async def test_questions_reach_everybody_who_serves(bench: Bench) -> None:
    """All nodes that serve a verb answer; nobody is an empty list."""

    async def answer(question: bytes) -> bytes:
        return b"re: " + question

    nobody = await bench.broker.ask("status", b"x", wait=0.2)
    await bench.broker.serve("status", answer)
    await bench.broker.serve("status", answer)

    assert nobody == []
    assert await bench.broker.ask("status", b"x", wait=0.2) == [b"re: x", b"re: x"]


async def test_trace_takes_what_it_gets(bench: Bench) -> None:
    """Traces are accepted without an answer."""
    await bench.broker.trace("n1", b'{"module": "calc"}\n')

    assert await bench.broker.clock() > 0


async def test_the_body_limit_leaves_room_for_headers(bench: Bench) -> None:
    """A body of exactly the limit with headers is stored."""
    entry = Entry(subject=CALC, body=bytes(bench.broker.body_limit), headers={MSG_ID: "big"})

    assert bench.broker.body_limit == MIB - 16 * 1024
    assert await bench.write([entry]) is None
    assert await bench.write([record("x"), Entry(subject=CALC, body=entry.body)]) is None
