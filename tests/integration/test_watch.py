"""Who watches over the links, on real servers: closes one so that it is made anew, no more."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from integration.islands import said

from scalebox_actors.broker import Credentials, Link, connect
from scalebox_actors.broker.watch import close
from scalebox_actors.sockets import Connection, connections
from scalebox_actors.testing.wan import Wan, wan
from scalebox_actors.topology.load import load

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

TOPOLOGY = load(
    b"topology: t\n"
    b"sites:\n"
    b"  hub: {hub: true, address: '127.0.0.1:7422'}\n"
    b"  a: {}\n"
    b"modules:\n"
    b"  m: {image: x, site: hub}\n",
    path="t.yaml",
)
AGAIN = 20.0


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Wan]:
    """Two sites that are joined, without streams."""
    async with wan(TOPOLOGY, tmp_path, deploy=False) as opened:
        yield opened


async def watcher(lab: Wan, events: list[tuple[str, str]]) -> Link:
    """Log in at the hub as who watches over its links."""
    return await connect(
        lab.servers["hub"].url,
        name="test",
        events=lambda *told: events.append(told),
        credentials=Credentials(seed=lab.seed, insecure=True),
    )


def seen_by_the_hub(lab: Wan) -> list[Connection]:
    """Return the connections that the kernel shows for the hub's server, of whatever process."""
    net = Path(f"/proc/{lab.servers['hub'].pid}/net")
    return [found for table in ("tcp", "tcp6") for found in connections((net / table).read_text())]


async def test_a_link_that_is_closed_is_made_anew(lab: Wan) -> None:
    """The hub finds the leaf link among all connections, closes that one, and the leaf dials."""
    events: list[tuple[str, str]] = []
    link = await watcher(lab, events)
    async with asyncio.timeout(AGAIN):
        await close(link, seen_by_the_hub(lab))
        await lab.until_linked(2, seconds=AGAIN)
    await link.close()

    assert [event for event, _ in events if event == "link_silent"] == ["link_silent"]
    assert "sbx-a at 127.0.0.1:" in events[0][1]
    assert "Kicked" in lab.servers["hub"].log


@pytest.mark.parametrize(
    "subject",
    ["$SYS.REQ.SERVER.PING", "$SYS.REQ.SERVER.X.RELOAD", "$SYS.REQ.SERVER.X.CONNZ",
     "$SYS.REQ.ACCOUNT.X.CONNZ", "sbx.t.hub.task.m", "$JS.API.INFO"],
)  # fmt: skip
async def test_who_watches_may_do_nothing_else(lab: Wan, subject: str) -> None:
    """Whatever else is asked of the system, or of the site, is denied, and an event names it."""
    events: list[tuple[str, str]] = []
    link = await watcher(lab, events)
    answer = await said(link, subject)
    await link.close()

    assert answer == "denied"
    assert subject.lower() in events[0][1]
