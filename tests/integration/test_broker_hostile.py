"""Hostile messages on the wire: each is delivered with its fault, and nothing else suffers."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from integration.raw_nats import RawNats

from scalebox_actors.broker import JetStreamBroker, Link, connect, ensure
from scalebox_actors.limits import MIB
from scalebox_actors.message import MSG_ID
from scalebox_actors.names import Names, is_reserved_id
from scalebox_actors.ports import Entry, Refused
from scalebox_actors.server import EmbeddedServer, Settings
from scalebox_actors.topology.model import Module, Topology
from scalebox_actors.topology.model import Site as SiteOf

pytestmark = pytest.mark.integration

NAMES = Names("hostile", "local")
TASK = NAMES.task("calc")
TOPOLOGY = Topology(name="hostile", modules={"calc": Module(name="calc")})
WIDE = Topology(
    name="wide",
    modules={"far": Module(name="far", sites=("a",))},
    sites={"hub": SiteOf(name="hub", hub=True), "a": SiteOf(name="a")},
)
VALID = b"NATS/1.0\r\nNats-Msg-Id: a1\r\nSbx-Hop: 1\r\n\r\n"
SECONDS_PER_MESSAGE = 0.005


class Site:
    """A broker on a real server, a raw client beside it, and what the adapter has said."""

    def __init__(self, link: Link, broker: JetStreamBroker, raw: RawNats) -> None:
        self.link, self.broker, self.raw = link, broker, raw
        self.events: list[str] = []

    async def deliver(self, count: int) -> list[tuple[bytes, str, str]]:
        """Take `count` messages and return body, id and fault of each."""
        seen: list[tuple[bytes, str, str]] = []
        async with self.broker.intake("calc") as intake:
            intake.grant(count)
            async for delivery in intake:
                seen.append((delivery.raw.body, delivery.message_id, delivery.raw.fault))
                await delivery.done()
                if len(seen) == count:
                    return seen
        raise AssertionError("the intake ended")


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """A fresh site; afterwards no read loop may have failed and no connection been lost."""
    events: list[str] = []
    with EmbeddedServer(tmp_path / "s", Settings(durable=False)) as server:
        link = await connect(
            server.url, name="test", events=lambda event, text: events.append(f"{event}: {text}")
        )
        await ensure(link, TOPOLOGY, NAMES)
        broker = await JetStreamBroker.open(link, NAMES)
        async with RawNats(server.url) as raw:
            site = Site(link, broker, raw)
            site.events = events
            yield site
        assert link.connected
        await link.close()
    assert [e for e in events if not e.startswith("foreign_ttl")] == []


def blocks() -> list[bytes]:
    """Header blocks that no honest client sends: every truncation of a valid one, and worse."""
    lines = b"".join(b"H%d: 1\r\n" % n for n in range(65))
    return [
        *(VALID[:n] for n in range(1, len(VALID))),
        *(b"x" * n for n in range(1, 13)),
        b"NATS/1.0\r\nno colon\r\n\r\n",
        b"NATS/1.0\r\n: no name\r\n\r\n",
        b"NATS/1.0\r\nA : 1\r\n\r\n",
        b"NATS/1.0\r\nA: 1\r\n folded\r\n\r\n",
        b"NATS/1.0\r\nA: \0\r\n\r\n",
        b"NATS/1.0\r\nA: \xff\xfe\r\n\r\n",
        b"NATS/1.0\r\nNats-Msg-Id: r1\r\nNats-Msg-Id: r2\r\n\r\n",
        b"NATS/1.0\r\nSbx-Hop: 1\r\nSbx-Hop: 2\r\n\r\n",
        b"NATS/1.0\r\n" + lines + b"A: \x01\r\n\r\n",
        b"NATS/1.0\r\nA: " + b"v" * 20_000 + b"\r\n\r\n",
    ]


async def test_no_header_block_stops_the_reader(site: Site) -> None:
    """Every stored bad block is delivered with its fault, under an id of its own, in time."""
    stored = 0
    for number, block in enumerate(blocks()):
        answer = await site.raw.store(TASK, b"%d" % number, block)
        stored += "seq" in answer and "error" not in answer and not answer.get("duplicate")
    assert stored > len(blocks()) // 2
    loop = asyncio.get_running_loop()
    begun = loop.time()

    seen = await site.deliver(stored)

    assert loop.time() - begun < 1 + SECONDS_PER_MESSAGE * stored
    faulty = [body for body, _, fault in seen if fault]
    unnamed = [message_id for _, message_id, _ in seen if is_reserved_id(message_id)]
    assert len(faulty) == len(seen), [s for s in seen if not s[2]]
    assert len(set(unnamed)) == len(unnamed)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        bytes(range(256)),
        b"\r\nPUB x 1\r\ny\r\n",
        b"%s {} $(id) `id` ${HOME}",
        b"- yaml: [",
        b"+ACK",
        b"-NAK",
    ],
)
@pytest.mark.parametrize(
    "block", [None, b"NATS/1.0\r\n\r\n", b"NATS/1.0\r\nnats-msg-id: x\r\n\r\n"]
)
async def test_valid_oddities_arrive_byte_for_byte(
    site: Site, body: bytes, block: bytes | None
) -> None:
    """A body is any bytes; a message without the id header is named by its place."""
    await site.raw.store(TASK, body, block)

    ((seen, message_id, fault),) = await site.deliver(1)

    assert (seen, fault) == (body, "")
    assert is_reserved_id(message_id)


@pytest.mark.parametrize(
    "status", ["100 Idle Heartbeat", "404", "408 Request Timeout", "409", "503"]
)
async def test_a_message_that_looks_like_a_status_is_a_message(site: Site, status: str) -> None:
    """A stored status line ends no pull: the message is delivered like any other."""
    block = f"NATS/1.0 {status}\r\nNats-Pending-Messages: 9\r\n\r\n".encode()
    await site.raw.store(TASK, b"", block)
    await site.raw.store(TASK, b"after")

    seen = await site.deliver(2)

    assert [body for body, _, _ in seen] == [b"", b"after"]


@pytest.mark.parametrize("given", ["", "a b", "a.b", "*", ">", "_reserved", "x" * 129])
async def test_a_bad_id_is_not_used(site: Site, given: str) -> None:
    """A message with an id outside the grammar is delivered under a derived one."""
    await site.raw.store(TASK, b"", f"NATS/1.0\r\nNats-Msg-Id: {given}\r\n\r\n".encode())

    ((_, message_id, _),) = await site.deliver(1)

    assert is_reserved_id(message_id)


@pytest.mark.parametrize(
    "header",
    [
        "Nats-Rollup: all",
        "Nats-Rollup: sub",
        "Nats-Schedule: @every 1s",
        "Nats-Incr: +1",
        "Nats-Expected-Last-Sequence: 99",
        "Nats-Expected-Stream: other",
        "Nats-Batch-Id: b",
        "Nats-TTL: soon",
    ],
)
async def test_the_server_refuses_what_publishers_may_not_set(site: Site, header: str) -> None:
    """On the shipped streams these headers store nothing."""
    await site.raw.store(TASK, b"first")
    block = f"NATS/1.0\r\n{header}\r\n\r\n".encode()

    answer = await site.raw.store(TASK, b"x", block)

    assert "seq" not in answer or "error" in answer, answer
    assert [s.body for s in await site.broker.read_all(">")] == [b"first"]


async def test_a_foreign_life_is_told(site: Site) -> None:
    """A publisher that sets a TTL on a task asks for its loss; the node at least says so."""
    await site.raw.store(TASK, b"x", b"NATS/1.0\r\nNats-TTL: 60s\r\n\r\n")

    await site.deliver(1)

    assert any(event.startswith(f"foreign_ttl: {TASK}") for event in site.events)


@pytest.mark.parametrize(
    "subject",
    [
        "sbx.hostile.local.task.clac",
        "sbx.hostile.other.task.calc",
        "sbx.other.local.task.calc",
        "sbx.hostile.local.task.*",
        "sbx.hostile.local.task.>",
        "sbx.hostile.local.task." + "x." * 1000 + "x",
    ],
)
async def test_a_wrong_subject_is_refused_at_publish(site: Site, subject: str) -> None:
    """A misspelt module, site or topology vanishes nowhere: nobody acknowledges it."""
    assert await site.raw.store(subject, b"x") == {}
    refusal = await site.broker.write([Entry(subject=subject)])

    assert refusal is not None
    assert refusal.kind is Refused.UNACCEPTABLE


async def test_subjects_that_are_no_text_are_counted_and_delivered(site: Site) -> None:
    """To the server they are subjects like others; whoever takes one sees which bytes it has."""
    names = Names("wide", "hub")
    await ensure(site.link, WIDE, names)
    broker = await JetStreamBroker.open(site.link, names)
    out, subjects = names.out("a", "far"), list[str]()
    for byte in ("\udc80", "\udcff", "y"):
        assert (await site.raw.store(f"{out}.{byte}", b"x"))["seq"]
    async with asyncio.timeout(5):
        waiting = await broker.waiting_to("a")
        async with broker.intake_to("a") as intake:
            intake.grant(3)
            async for delivery in intake:
                subjects.append(delivery.raw.subject)
                if len(subjects) == 3:
                    break

    assert waiting >= 2  # the first two look alike where subjects are counted
    assert subjects == [f"{out}.\\x80", f"{out}.\\xff", f"{out}.y"]


async def test_sizes_at_the_limit(site: Site) -> None:
    """The largest message passes; one byte more is refused by us and harms no connection."""
    block = len(b"NATS/1.0\r\nNats-Msg-Id: s1\r\n\r\n")
    largest = MIB - block
    assert (await site.raw.store(TASK, bytes(largest), b"NATS/1.0\r\nNats-Msg-Id: s1\r\n\r\n"))[
        "seq"
    ]

    refusal = await site.broker.write(
        [Entry(subject=TASK, body=bytes(MIB - block + 1), headers={MSG_ID: "s2"})]
    )
    many = [
        Entry(subject=TASK, body=bytes(MIB - 500), headers={MSG_ID: f"b{n}"}) for n in range(17)
    ]
    crowd = await site.broker.write(many)

    assert refusal is not None
    assert refusal.kind is Refused.UNACCEPTABLE
    assert crowd is not None
    assert crowd.kind is Refused.UNACCEPTABLE
    assert await site.broker.write(many[:15]) is None
    assert len(await site.deliver(16)) == 16


async def test_garbage_does_not_hold_up_good_work(site: Site) -> None:
    """Good messages between bad ones are delivered at once and whole."""
    for number in range(50):
        await site.raw.store(TASK, b"bad", b"x" * (1 + number % 8))
        await site.raw.store(TASK, b"good", b"NATS/1.0\r\nNats-Msg-Id: g%d\r\n\r\n" % number)

    seen = await site.deliver(100)

    good = [message_id for body, message_id, fault in seen if body == b"good" and not fault]
    assert good == [f"g{n}" for n in range(50)]
