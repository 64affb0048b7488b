"""F9 at the sending end: its server is killed while two nodes carry parcels and single messages.

Every message must be at the other site once, and the tally must have each exactly once, although
a server that was killed may hand out again what was acked, and takes its time with what was on
its way to a courier.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from faults.stage import show

from scalebox_actors.broker import JetStreamBroker
from scalebox_actors.cancelling import recall
from scalebox_actors.cli.sending import Sending
from scalebox_actors.crossing import Tally, mark, sent_key
from scalebox_actors.ledger import Ledger
from scalebox_actors.local import Site
from scalebox_actors.message import MSG_ID
from scalebox_actors.node import Node, Settings
from scalebox_actors.operations import Selection
from scalebox_actors.ports import Entry
from scalebox_actors.testing.wan import Wan, wan
from scalebox_actors.topology.load import load

MESSAGES = 1200
ALONE = 400
LOT = 20
KILLS = 4
CLEAR = 120.0
"""What was on its way to a courier comes again when its `ack_wait` has passed."""
TOPOLOGY = """
topology: parcels
sites:
  hub: {hub: true, address: "127.0.0.1:7422"}
  a: {}
modules:
  far: {site: a, function: "crossing_functions:same"}
"""


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Wan]:
    """Two sites; nobody takes at `a` what arrives there, so that it can be counted."""
    async with wan(load(TOPOLOGY.encode(), path="parcels"), tmp_path / "lab") as opened:
        yield opened


@asynccontextmanager
async def carrying(lab: Wan, folder: Path) -> AsyncIterator[None]:
    """Two nodes at the hub, which have nothing to do but to carry."""
    nodes = [
        Node(lab.topology, await lab.broker("hub"), None, Settings(name=name, base=folder / name))
        for name in ("n1", "n2")
    ]
    work = [asyncio.create_task(node.run()) for node in nodes]
    try:
        yield
    finally:
        for node in nodes:
            node.stop()
        await asyncio.gather(*work)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("site", ["hub", "a"])
async def test_a_killed_server_leaves_the_tally_of_parcels_exact(
    lab: Wan, site: str, tmp_path: Path
) -> None:
    """Parcels and single messages, two couriers, four kills: each is there once, counted once."""
    broker, far = await lab.broker("hub"), await lab.broker("a")
    sending = Sending(
        names=broker.names, topology=lab.topology, module="far", body_limit=broker.body_limit
    )
    entries = [sending.entry(b"%d" % number) for number in range(MESSAGES)]
    await broker.inject(mixed(sending, entries))
    began = asyncio.get_running_loop().time()
    async with carrying(lab, tmp_path):
        for _ in range(KILLS):
            await asyncio.sleep(random.uniform(0.05, 0.4))  # noqa: S311 - whenever it hurts
            lab.servers[site].kill()
            await lab.servers[site].start()
        async with asyncio.timeout(CLEAR):
            while await broker.waiting_to("a"):  # noqa: ASYNC110 - a stream can only be asked
                await asyncio.sleep(0.1)
    there = await far.read_all(far.names.task("far"), most=2 * MESSAGES)
    counted = await Ledger(broker, "auditor").totals(sent_key("a"))
    took = asyncio.get_running_loop().time() - began
    show("F9 parcels", site=site, took=took, stored=len(there))

    assert sorted(m.headers[MSG_ID] for m in there) == sorted(e.headers[MSG_ID] for e in entries)
    assert counted == Tally().plus(
        mark("far", entry.headers[MSG_ID], entry.body) for entry in entries
    )


async def test_what_is_cancelled_while_its_link_is_cut_never_crosses(
    lab: Wan, tmp_path: Path
) -> None:
    """Also what a node has in its hands is taken back, single messages of a parcel too."""
    broker, far = await lab.broker("hub"), await lab.broker("a")
    hub = Site(await lab.connect("hub"), broker.names, None)
    sending = Sending(
        names=broker.names, topology=lab.topology, module="far", body_limit=broker.body_limit
    )
    entries = [sending.entry(b"%d" % number) for number in range(20)]
    lab.wires["a"].cut()
    async with carrying(lab, tmp_path):
        await broker.inject([entries[0], *(entry for entry, _ in sending.packed(entries[1:]))])
        async with asyncio.timeout(20):  # all is in the hands of a node, which knocks in vain
            while (await broker._reader.backlog(broker.names.courier("a"))).in_hand < 2:  # noqa: ASYNC110 - asked of the server
                await asyncio.sleep(0.05)
        meant = [Selection(id=entries[number].headers[MSG_ID]) for number in (0, 3, 4)]
        taken: set[str] = set()
        async with asyncio.timeout(20):
            while len(taken) < len(meant):
                for chosen in meant:
                    taken |= await recalled(hub, broker, chosen)
        lab.wires["a"].heal()
        async with asyncio.timeout(CLEAR):
            while await broker.waiting_to("a"):  # noqa: ASYNC110 - a stream can only be asked
                await asyncio.sleep(0.1)
    there = await far.read_all(far.names.task("far"))

    assert sorted(int(m.body) for m in there) == [1, 2, *range(5, 20)]


async def recalled(site: Site, broker: JetStreamBroker, chosen: Selection) -> set[str]:
    """Take back what waits to be carried, alone or in a parcel; return the ids."""
    ways = (site.names.out("*", "*"), site.names.parcel("*", "*"))
    taken: set[str] = set()
    for way in ways:
        async for swept in recall(site, broker, chosen, way):
            taken |= {message.id for message in swept.cancelled}
    return taken


def mixed(sending: Sending, entries: list[Entry]) -> list[Entry]:
    """Some messages alone, the others in small parcels, in any order."""
    found = entries[:ALONE]
    for start in range(ALONE, MESSAGES, LOT):
        found += [entry for entry, _ in sending.packed(entries[start : start + LOT])]
    random.shuffle(found)
    return found
