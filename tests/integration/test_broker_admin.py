"""What a topology needs on the server, and what an operator does with it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from integration.broker_site import CALC, MODULES, NAMES, TOPOLOGY, Site, open_site, task

from scalebox_actors.broker import Admin, ensure, planned
from scalebox_actors.errors import BadInput, Permanent
from scalebox_actors.names import Names
from scalebox_actors.ports import Entry
from scalebox_actors.topology.model import Module, Topology

pytestmark = pytest.mark.integration


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """A site with a synced store."""
    async with open_site(tmp_path / "store") as site:
        yield site


async def test_ensure_is_idempotent_and_puts_right_what_may_be(site: Site) -> None:
    """A second call changes nothing; drift that is safe is undone."""
    again = await ensure(site.link, TOPOLOGY, NAMES)
    info = await site.link.api(f"STREAM.INFO.{NAMES.stream}")
    config = info["config"]
    assert isinstance(config, dict)
    await site.link.api(f"STREAM.UPDATE.{NAMES.stream}", {**config, "max_bytes": 1_000_000})

    changes = await ensure(site.link, TOPOLOGY, NAMES)

    assert again == []
    assert changes == [f"stream {NAMES.stream} updated (max_bytes)"]
    assert [plan.kind for plan in planned(TOPOLOGY, NAMES)] == [
        *("stream", "stream", "bucket", "bucket"),
        *("consumer", "consumer"),
    ]


async def test_modules_come_and_go_with_the_topology(site: Site) -> None:
    """A new module gets subject and consumer; a removed one without messages loses them."""
    grown = Topology(name="rec", modules=MODULES | {"more": Module(name="more")})

    added = await ensure(site.link, grown, NAMES)
    await site.broker.write([Entry(subject=NAMES.task("more"))])
    await site.broker.purge(NAMES.task("more"))
    removed = await ensure(site.link, TOPOLOGY, NAMES)

    assert added == [f"stream {NAMES.stream} updated (subjects)", "consumer run_more created"]
    assert removed == [f"stream {NAMES.stream} updated (subjects)"]


async def test_a_removed_module_with_messages_is_refused(site: Site) -> None:
    """The modules and the numbers of their waiting messages are named; nothing is changed."""
    await site.broker.write([task(n) for n in range(3)])
    shrunk = Topology(name="rec", modules={"merge": MODULES["merge"]})

    with pytest.raises(BadInput, match=r"calc \(3 waiting\)"):
        await ensure(site.link, shrunk, NAMES)

    assert len(await site.broker.read_all(CALC)) == 3


async def test_a_stream_of_another_kind_is_refused(site: Site) -> None:
    """A stream that somebody else made under our name is left alone."""
    names = Names("mine", "local")
    request = {"name": names.stream, "subjects": [names.task("calc")], "retention": "limits"}
    await site.link.api(f"STREAM.CREATE.{names.stream}", request)

    with pytest.raises(Permanent, match="retention is 'limits'"):
        await ensure(site.link, Topology(name="mine", modules=MODULES), names)


async def test_results_are_taken_page_by_page(site: Site) -> None:
    """A page is removed when the next is asked for; an interrupted page comes again."""
    admin = Admin(site.link, NAMES)
    results = [Entry(subject=NAMES.result("calc"), body=b"%d" % n) for n in range(1000)]
    await site.broker.write(results)
    await site.broker.write(results)
    await site.broker.write([Entry(subject=NAMES.dead("calc", "x"))])

    async for page in admin.take(NAMES.result("*")):
        assert len(page) == 1000
        break
    kept = sum((await admin.list_subjects(NAMES.result("*"))).values())
    taken = [stored.body async for page in admin.take(NAMES.result("*")) for stored in page]

    assert kept == 2000
    assert taken == [b"%d" % n for n in [*range(1000), *range(1000)]]
    assert await admin.list_subjects(">") == {NAMES.dead("calc", "x"): 1}


async def test_operators_look_pause_and_delete(site: Site) -> None:
    """Sizes, subjects, pause and resume, deletion of one message, the kept topology, traces."""
    admin = Admin(site.link, NAMES)
    await site.broker.write([task(1), task(2)])
    await site.broker.trace("n1", b"one\n")
    await admin.write_topology(b"topology: rec\n")
    until = await admin.pause("calc", 60)
    paused = await admin.backlog("calc")
    async with site.broker.intake("calc") as intake:
        intake.grant(1)
        await asyncio.sleep(0.2)
        in_hand = (await admin.backlog("calc")).in_hand
        await admin.resume("calc")
        delivery = await anext(aiter(intake))
        await delivery.done()

    ((left,),) = [page async for page in admin.messages(CALC)]
    assert abs(paused.paused_until - until) < 1
    assert in_hand == 0
    assert (await admin.backlog("calc")).paused_until == 0
    assert await admin.delete(left.sequence)
    assert not await admin.delete(left.sequence)
    assert [s.body async for page in admin.trace_messages() for s in page] == [b"one\n"]
    assert [s.body async for page in admin.trace_messages(since=until + 99) for s in page] == []
    assert await admin.read_topology() == b"topology: rec\n"
    assert next(size.name for size in await admin.sizes()) == NAMES.stream


async def test_injection_counts_what_became_of_each(site: Site) -> None:
    """Stored, already there and not acceptable are told apart, wherever they stand."""
    await site.broker.write([task(5), task(1500)])
    entries = [task(n) for n in range(2500)]
    entries[1200] = Entry(subject=NAMES.task("clac"))
    entries[7] = Entry(subject=CALC, headers={"X": "ü"})
    entries[8] = entries[9]

    injected = await site.broker.inject(entries)

    assert (injected.stored, injected.duplicates) == (2495, 3)
    assert [place for place, _ in injected.refused] == [7, 1200]
    bodies = [stored.body for stored in await site.broker.read_all(CALC)]
    assert len(bodies) == len(set(bodies)) == 2497
