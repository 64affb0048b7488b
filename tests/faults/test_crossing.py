"""F9 to F11: links cut loudly and silently, slowed down, and the servers at either end killed.

Nothing is lost, nothing is doubled, both ends of every link certify the same messages, and while
a link is down every site goes on with its own work.
"""

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from faults.crossing import Traffic, traffic
from faults.stage import show

from scalebox_actors.testing.wire import ProxyWire, Way, Wire

AFTER_HEAL = 5.0
TRANSFER = 3.0
"""What carrying the backlog may take on a busy machine with two cores; see docs/wan.md."""
AFTER_KILL = 12.0
AFTER_LOSS = 13.0
"""Where packets are lost and the link is not given up, TCP itself may wait as long as the cut."""
LONG = [
    pytest.param(8.0, id="8s"),
    pytest.param(30.0, id="30s", marks=[pytest.mark.soak, pytest.mark.timeout(180)]),
    pytest.param(600.0, id="10min", marks=[pytest.mark.soak, pytest.mark.timeout(1200)]),
]
Break = Callable[[Wire], None]


def loud(wire: Wire) -> None:
    """Connections are reset."""
    wire.cut()


def silent(wire: Wire) -> None:
    """Nothing comes through, in both directions."""
    wire.silence()


def one_way(wire: Wire) -> None:
    """What the leaf says is not heard."""
    wire.silence(Way.OUT)


@pytest.fixture
async def flow(tmp_path: Path) -> AsyncIterator[Traffic]:
    """Traffic over three sites on loopback."""
    async with traffic(tmp_path) as opened:
        yield opened


@contextlib.asynccontextmanager
async def sending(flow: Traffic) -> AsyncIterator[None]:
    """Send all the while, also during what goes wrong."""
    task = asyncio.create_task(flow.send())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def broken(flow: Traffic, wires: list[Wire], how: Break, seconds: float) -> float:
    """Break wires in the middle of traffic and heal them; return when all had arrived."""
    async with sending(flow):
        await asyncio.sleep(1.0)
        for wire in wires:
            how(wire)
        await asyncio.sleep(seconds)
        done = await flow.local_share()
    for wire in wires:
        wire.heal()
    took = await flow.arrived()

    assert done >= 0.9, "the sites' own work went on"
    return took


async def certified(flow: Traffic) -> None:
    """Check that nothing is lost or doubled and that both ends of each link say the same."""
    papers, lost, doubled = await flow.audit()

    assert (lost, doubled) == (0, 0)
    assert [str(paper) for paper in papers if not paper.agrees] == []
    assert sum(paper.sent.count for paper in papers) >= 2 * 5 * flow.roots


@pytest.mark.parametrize("seconds", LONG)
@pytest.mark.parametrize("how", [loud, silent, one_way])
@pytest.mark.parametrize("site", ["a", "b"])
async def test_a_link_that_is_cut_in_the_middle_of_traffic_loses_nothing(
    flow: Traffic, site: str, how: Break, seconds: float
) -> None:
    """F9, F10: everything arrives once and soon after the link heals; local work goes on."""
    took = await broken(flow, [flow.lab.wires[site]], how, seconds)
    show("F9/F10", site=site, how=how.__name__, cut=seconds, resumed=took, roots=flow.roots)

    await certified(flow)
    assert took < AFTER_HEAL + TRANSFER


async def test_links_that_are_cut_one_after_the_other_lose_nothing(flow: Traffic) -> None:
    """F9, swizzled: cuts overlap and heal in another order."""
    first, second = flow.lab.wires["a"], flow.lab.wires["b"]
    async with sending(flow):
        for _ in range(2):
            first.cut()
            await asyncio.sleep(1.0)
            second.silence()
            await asyncio.sleep(1.0)
            first.heal()
            await asyncio.sleep(1.0)
            second.heal()
            await asyncio.sleep(1.0)
    took = await flow.arrived()
    show("F9 swizzle", resumed=took, roots=flow.roots)

    await certified(flow)


@pytest.mark.parametrize("site", ["hub", "a"])
async def test_a_server_that_is_killed_at_either_end_loses_nothing(
    flow: Traffic, site: str
) -> None:
    """F9: kill -9 of the hub's server or of a leaf's, twice, under traffic."""
    server = flow.lab.servers[site]
    async with sending(flow):
        for _ in range(2):
            await asyncio.sleep(1.5)
            server.kill()
            await asyncio.sleep(0.5)
            await server.start()
    took = await flow.arrived()
    show("F9 kill", site=site, resumed=took, roots=flow.roots)

    await certified(flow)
    assert took < AFTER_KILL


async def test_a_slow_link_doubles_nothing(flow: Traffic) -> None:
    """F11: 300 ms round trip and 64 kB/s; nothing times out into doubles."""
    for wire in flow.lab.wires.values():
        assert isinstance(wire, ProxyWire)
        wire.delay, wire.bandwidth = 0.15, 64_000.0
    await flow.flow(5)
    took = await flow.arrived()
    show("F11", resumed=took, roots=flow.roots)

    await certified(flow)


async def test_packets_that_are_really_lost_lose_no_message(tmp_path: Path) -> None:
    """F10 in network namespaces: packets are dropped for 8 s, as a dead router does it."""
    if os.geteuid() or not shutil.which("iptables"):
        pytest.skip("needs root and iptables")
    async with traffic(tmp_path, namespaces=True) as flow:
        took = await broken(flow, [flow.lab.wires["a"]], silent, 8.0)
        show("F10 namespaces", resumed=took, roots=flow.roots)

        await certified(flow)
        assert took < AFTER_LOSS
