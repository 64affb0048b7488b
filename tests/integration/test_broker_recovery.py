"""The broker when its server dies, freezes or forgets: nothing lost, nothing doubled."""

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from integration.broker_site import CALC, MODULES, NAMES, Site, open_site, record, task

from scalebox_actors.broker import Admin, JetStreamBroker, connect, ensure
from scalebox_actors.broker.streams import NS, consumer_config, ensure_consumer
from scalebox_actors.errors import NotPermitted, Unavailable
from scalebox_actors.names import Names
from scalebox_actors.ports import Entry, Refused
from scalebox_actors.topology.model import Size, Topology

pytestmark = pytest.mark.integration


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """A site with a synced store."""
    async with open_site(tmp_path / "store") as site:
        yield site


async def test_kill_9_in_the_middle_of_writes_loses_and_doubles_nothing(site: Site) -> None:
    """Batches go on over five crashes of the server; each is stored once, and whole."""

    async def write(number: int) -> None:
        batch = [record(f"r{number}"), *(task(10 * number + n) for n in range(5))]
        refusal = await site.broker.write(batch)
        # After a lost answer the batch is repeated, and finds its own record.
        assert refusal is None or refusal.kind is Refused.CONFLICT, refusal

    async def writer(lane: int) -> None:
        for number in range(lane, 160, 8):
            await write(number)

    writers = asyncio.gather(*(writer(lane) for lane in range(8)))
    for _ in range(5):
        await asyncio.sleep(0.15)
        site.kill()
    await writers

    bodies = Counter(stored.body for stored in await site.broker.read_all(CALC))
    expected = {b"%d" % (10 * number + n) for number in range(160) for n in range(5)}
    assert set(bodies) == expected
    assert set(bodies.values()) == {1}


async def test_what_is_asked_for_after_a_hold_comes_at_once(site: Site) -> None:
    """The asking never overtakes the inbox that it names: it would be lost, and found so late."""
    async with site.broker.intake("calc") as intake:
        for number in range(40):
            intake.hold()
            await site.broker.inject([task(number)])
            intake.grant(1)
            async with asyncio.timeout(8):
                delivery = await anext(aiter(intake))
            await delivery.done()


async def test_what_was_given_back_comes_at_once_after_the_server_has_ended(site: Site) -> None:
    """Whoever stops a run with two Ctrl-C and starts it again does not wait for `ack_wait`."""
    await site.broker.inject([task(1)])
    async with site.broker.intake("calc") as intake:
        intake.grant(1)
        await (await anext(aiter(intake))).give_back(0.0)
    site.server.stop()
    site.server.start()

    async with site.broker.intake("calc") as intake:
        intake.grant(1)
        async with asyncio.timeout(8):
            delivery = await anext(aiter(intake))
        await delivery.done()

    assert delivery.redelivered


async def test_pull_and_ack_go_on_over_kill_9(site: Site) -> None:
    """Deliveries continue after each crash, everything is done, and nothing is left."""
    await site.broker.inject([task(n) for n in range(600)])
    soon = consumer_config(NAMES, "calc") | {"ack_wait": NS}
    # What was on its way to us when the server died comes again after this time.
    await ensure_consumer(site.link, NAMES.stream, soon)
    seen: set[str] = set()

    async with site.broker.intake("calc") as intake:
        intake.grant(20)

        async def work() -> None:
            async for delivery in intake:
                seen.add(delivery.message_id)
                with contextlib.suppress(Unavailable):  # forgotten in the crash: it comes again
                    await delivery.done()
                intake.grant(1)

        working = asyncio.create_task(work())
        for _ in range(3):
            await asyncio.sleep(0.1)
            site.kill()
        while await site.broker.read_all(CALC, most=1):  # noqa: ASYNC110 - no event tells it
            await asyncio.sleep(0.05)
        working.cancel()

    assert seen == {f"m{n}" for n in range(600)}


async def test_what_is_in_hand_is_not_delivered_again(site: Site) -> None:
    """Heart-beats keep a message for longer than its `ack_wait`; let go, it comes again."""
    soon = consumer_config(NAMES, "calc") | {"ack_wait": NS}
    await ensure_consumer(site.link, NAMES.stream, soon)
    await site.broker.write([task(1)])
    async with site.broker.intake("calc") as intake:
        intake.grant(2)
        delivery = await anext(aiter(intake))
        again = asyncio.ensure_future(anext(aiter(intake)))
        await asyncio.sleep(2.5)
        kept = not again.done()
        delivery.let_go()

        assert kept
        assert (await again).redelivered


async def test_a_waiting_intake_survives_a_restart(site: Site) -> None:
    """A slot that was granted before the crash receives what is written after it."""
    async with site.broker.intake("calc") as intake:
        intake.grant(3)
        await asyncio.sleep(0.1)
        site.kill()
        await site.broker.write([task(1)])
        async for delivery in intake:
            await delivery.done()
            break

        await site.broker.write([task(2), task(3), task(4)])
        rest = []
        async for delivery in intake:
            rest.append(delivery.raw.body)
            if len(rest) == 2:
                break

        assert sorted(rest) == [b"2", b"3"]
        backlog = await site.broker.backlog("calc")
        assert (backlog.waiting, backlog.in_hand) == (1, 2)


async def test_a_frozen_server_delays_and_loses_nothing(site: Site) -> None:
    """Requests made while the server stands still are answered when it goes on."""
    os.kill(site.server.pid, signal.SIGSTOP)
    writing = asyncio.create_task(site.broker.write([record("a"), task(1)]))
    reading = asyncio.create_task(site.broker.read(CALC))
    await asyncio.sleep(0.5)
    answered = writing.done() or reading.done()
    os.kill(site.server.pid, signal.SIGCONT)

    assert not answered
    assert await writing is None
    await reading


async def test_a_full_stream_stops_and_drops_nothing(site: Site) -> None:
    """At `max_bytes` writes wait and say so; they go on as soon as there is room."""
    small = Topology(name="small", modules=MODULES, max_bytes=Size(64 * 1024))
    names = Names("small", "local")
    await ensure(site.link, small, names)
    broker = await JetStreamBroker.open(site.link, names)
    big = Entry(subject=names.task("calc"), body=bytes(30_000))
    assert await broker.write([big, big]) is None

    writing = [
        asyncio.create_task(broker.write([big])),
        asyncio.create_task(broker.write([Entry(subject=names.done("calc", "x")), big])),
    ]
    await site.told("write_waits")
    full = [stored.sequence for stored in await broker.read_all(">")]
    await broker.purge(names.task("calc"))

    assert await asyncio.gather(*writing) == [None, None]
    assert full == [1, 2]


async def test_a_waiting_write_can_be_cancelled(site: Site) -> None:
    """Whoever gives up on a write leaves nothing running behind."""
    os.kill(site.server.pid, signal.SIGSTOP)
    writing = asyncio.create_task(site.broker.write([record("a"), task(1)]))
    await asyncio.sleep(0.05)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    os.kill(site.server.pid, signal.SIGCONT)

    assert await site.broker.write([task(2)]) is None


async def test_sixty_committers_at_once_all_succeed(site: Site) -> None:
    """More batches than the server takes in flight are refused, waited out and stored."""
    batches = [[record(f"s{n}"), task(2 * n), task(2 * n + 1)] for n in range(80)]

    refusals = await asyncio.gather(*map(site.broker.write, batches))

    assert set(refusals) == {None}
    assert len(await site.broker.read_all(CALC)) == 160


async def test_a_lost_consumer_is_made_again(site: Site) -> None:
    """An operator's slip costs nothing: the consumer is there again and the event says so."""
    async with site.broker.intake("calc") as intake:
        intake.grant(1)
        await asyncio.sleep(0.1)
        await site.link.api(f"CONSUMER.DELETE.{NAMES.stream}.{NAMES.consumer('calc')}")
        await site.told("consumer_made_again")
        await site.broker.write([task(1)])
        async for delivery in intake:
            await delivery.done()
            break

    assert await site.broker.read_all(CALC) == []


async def test_a_lost_stream_is_never_made_again(site: Site) -> None:
    """The intake and the writer end with an error that names the stream."""
    async with site.broker.intake("calc") as intake:
        intake.grant(1)
        await asyncio.sleep(0.1)
        await Admin(site.link, NAMES).purge_topology()

        with pytest.raises(Unavailable, match=NAMES.stream):
            await anext(aiter(intake))
        with pytest.raises(Unavailable, match=NAMES.stream):
            await site.broker.write([task(1)])


async def test_a_delivery_of_a_lost_consumer_cannot_be_acked(site: Site) -> None:
    """`done` raises: the message is still there and comes again."""
    await site.broker.write([task(1)])
    async with site.broker.intake("calc") as intake:
        intake.grant(1)
        delivery = await anext(aiter(intake))
        await site.link.api(f"CONSUMER.DELETE.{NAMES.stream}.{NAMES.consumer('calc')}")

        with pytest.raises(Unavailable, match="run_calc"):
            await delivery.done()
    assert len(await site.broker.read_all(CALC)) == 1


async def test_without_a_server_connecting_says_so() -> None:
    """Nobody listening is Unavailable within the time given."""
    with pytest.raises(Unavailable, match="no nats-server answers at nats://127"):
        await connect("nats://127.0.0.1:9", name="test", events=lambda *_: None, seconds=0.5)


async def test_a_closed_link_ends_whoever_waits(site: Site) -> None:
    """Calls and intakes on a closed link raise Unavailable instead of waiting for ever."""
    async with site.broker.intake("calc") as intake:
        intake.grant(1)
        waiting = asyncio.ensure_future(anext(aiter(intake)))
        await asyncio.sleep(0.05)
        await site.link.close()

        with pytest.raises(Unavailable, match="closed by us"):
            await waiting
        with pytest.raises(Unavailable, match="closed by us"):
            await site.broker.read(CALC)
        with pytest.raises(Unavailable, match="closed by us"):
            await site.broker.write([task(1)])


async def test_a_denied_subject_is_an_answer(tmp_path: Path, site: Site) -> None:
    """What the server denies silently is told: as a refusal, an error and an event."""
    conf = tmp_path / "users.conf"
    conf.write_text(
        (site.server.store / "nats.conf").read_text()
        + 'authorization { users: [ {user: "a", password: "a"}, {user: "b", password: "b",'
        + f' permissions: {{ publish: {{ deny: ["{NAMES.task("merge")}"] }} }} }} ] }}\n'
    )
    (site.server.store / "nats.conf").write_text(conf.read_text())
    os.kill(site.server.pid, signal.SIGHUP)
    while "Reloaded server configuration" not in site.server.log.read_text():
        pass
    url = site.server.url.replace("//", "//b:b@")
    events: list[str] = []
    link = await connect(url, name="b", events=lambda event, text: events.append(f"{event} {text}"))
    broker = await JetStreamBroker.open(link, NAMES)
    denied = Entry(subject=NAMES.task("merge"))

    for batch in ([denied], [denied, task(1)], [task(2), denied, task(3)], [task(4), denied]):
        refusal = await broker.write(batch)
        assert refusal is not None
        assert refusal.kind is Refused.UNACCEPTABLE
    with pytest.raises(NotPermitted):
        await connect(site.server.url, name="nobody", events=lambda *_: None, seconds=2)
    allowed = await broker.write([task(5)])
    await link.close()

    assert allowed is None
    assert any("permissions violation" in event.lower() for event in events)
