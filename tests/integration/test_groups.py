"""The end of a group at a real server: its last count goes, and no earlier one comes to light."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from integration.broker_site import NAMES, Site, open_site

from scalebox_actors import gather, groups
from scalebox_actors.committer import Committer
from scalebox_actors.effects import Scribe
from scalebox_actors.message import Message
from scalebox_actors.records import Settled, Settlement
from scalebox_actors.topology.model import Duration, Gather, Module, Topology

pytestmark = pytest.mark.integration

MODULE = Module(name="calc", gather=Gather(by="root", count=2))
TOPOLOGY = Topology(name="rec", modules={"calc": MODULE}, remember=Duration(1))
SCRIBE = Scribe(topology=TOPOLOGY, names=NAMES, node="n1", body_limit=1000)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """A site with a synced store."""
    async with open_site(tmp_path / "store") as site:
        yield site


async def join(site: Site, *ids: str) -> list[Settlement]:
    """Let members of one group arrive, one after the other."""
    committer = Committer(site.broker)
    work = asyncio.create_task(committer.run())
    messages = [Message(module="calc", id=one, body=b"x", root="r") for one in ids]
    settled = [await committer.commit(SCRIBE.member(message)) for message in messages]
    work.cancel()
    return settled


async def test_a_name_is_free_again_and_not_before(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closed while its members are there and a second longer, then as if it had never been."""
    monkeypatch.setattr(groups, "ID_WINDOW", 0.0)
    monkeypatch.setattr(groups, "LONGER", 0.0)
    token = gather.token_of("calc", "r")
    counts, members = NAMES.group("calc", token), NAMES.member("calc", token, "*")
    await join(site, "m1", "m2")
    await asyncio.sleep(3)  # `remember`, and long enough for the server to see it
    (late,) = await join(site, "m3")
    there = len(await site.broker.read_all(members))

    assert await groups.forget(site.broker, "calc", token, remember=1)
    (last,) = await site.broker.read_all(counts)
    gone = await site.broker.read_all(members)
    async with asyncio.timeout(15):
        while await site.broker.read(counts) is not None:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.1)
    (first,) = await join(site, "m4")
    (count,) = await site.broker.read_all(counts)

    assert (late.kind, there, gather.decode(last).released, gone) == (Settled.LATE, 2, True, [])
    assert (first.kind, gather.decode(count).count) == (Settled.COMMITTED, 1)
