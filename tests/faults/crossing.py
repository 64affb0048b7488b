"""Traffic over four sites whose links are cut, and the demonstration of it (`make wan-demo`).

`split` at the hub sends to `count` at a, b and c, these send to `check` at b (from a and c through
the hub: edge to edge), and that sends to `total` at the hub; beside it every site has work of its
own.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

from scalebox_actors.broker import Admin, JetStreamBroker
from scalebox_actors.message import MSG_ID
from scalebox_actors.node import Node, Settings
from scalebox_actors.ports import Entry
from scalebox_actors.testing.wan import Certificate, Wan, certificates, wan
from scalebox_actors.topology.load import load

PARTS = 5
TICK = 0.2
PACE = 10
"""Messages of its own that every site gets in a second."""
WINDOW = 2.0
"""What rates are taken over; with more than a few messages in each, one more does not matter."""
CLEAR = 120.0
SETTLED = 10.0
TOPOLOGY = """
topology: crossing
sites:
  hub: {hub: true, address: "127.0.0.1:7422"}
  a: {}
  b: {}
  c: {}
modules:
  split: {site: hub, function: "crossing_functions:split", sinks: [count]}
  count: {sites: [a, b, c], route: spread, function: "crossing_functions:same", sinks: [check]}
  check: {site: b, function: "crossing_functions:same", sinks: [total]}
  total: {site: hub, function: "crossing_functions:same"}
  local: {function: "crossing_functions:same"}
"""


class Traffic:
    """Nodes at every site, and somebody who sends; made by `traffic`."""

    def __init__(
        self, lab: Wan, brokers: dict[str, JetStreamBroker], nodes: list[Node], hub: Admin
    ) -> None:
        self.lab = lab
        self.brokers = brokers
        self._hub = hub
        self.tick = TICK
        self.pace = PACE
        self.roots = 0
        self.locals = dict.fromkeys(brokers, 0)
        self._nodes = nodes

    async def send(self) -> None:
        """Send into the pipeline, and to each site's own work, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._send_roots())
            for site in self.brokers:
                tasks.create_task(self._send_locals(site))

    async def flow(self, seconds: float) -> None:
        """Send for so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.send()

    async def rates(self, seconds: float) -> dict[str, float]:
        """Return how much of its own work each site does in a second, a median."""
        rates: list[list[float]] = []
        last, since = self._done(), time.monotonic()
        end = since + seconds
        while time.monotonic() < end - WINDOW / 2:
            await asyncio.sleep(min(WINDOW, end - time.monotonic()))
            now, done = time.monotonic(), self._done()
            pairs = zip(done, last, strict=True)
            rates.append([(new - old) / (now - since) for new, old in pairs])
            last, since = done, now
        return dict(zip(self.brokers, map(median, zip(*rates, strict=True)), strict=True))

    async def results(self, site: str, module: str) -> Counter[bytes]:
        """Return what a module has emitted at a site, and how often."""
        names = self.lab.names(site)
        stored = await self.brokers[site].read_all(names.result(module), most=1_000_000)
        return Counter(message.body for message in stored)

    def expected(self, roots: int) -> set[bytes]:
        """Return what so many roots become."""
        return {b"r%d.%d" % (root, part) for root in range(roots) for part in range(PARTS)}

    async def arrived(self, *, seconds: float = CLEAR) -> float:
        """Wait until all that was sent has come out at the hub; return how long that took."""
        began = time.monotonic()
        wanted = self.expected(self.roots)
        async with asyncio.timeout(seconds):
            while True:
                if await self.missing() <= 0:  # counting is cheap, reading is not
                    took = time.monotonic() - began
                    if not wanted - set(await self.results("hub", "total")):
                        return took
                await asyncio.sleep(0.05)

    async def transfer(self, results: int) -> float:
        """Return how long so many results take from the first message on, while nothing fails."""
        await self.give(-(-results // PARTS))
        return await self.arrived()

    async def give(self, roots: int) -> None:
        """Send so many messages into the pipeline at once."""
        first, self.roots = self.roots, self.roots + roots
        await self._put("hub", "split", *(f"r{number}" for number in range(first, self.roots)))

    async def missing(self) -> int:
        """Return how many results are not at the hub yet."""
        subject = self.lab.names("hub").result("total")
        there = await self._hub.list_subjects(subject)
        return self.roots * PARTS - there.get(subject, 0)

    async def audit(self) -> tuple[list[Certificate], int, int]:
        """Return the certificates, and how many results are lost and doubled."""
        began = time.monotonic()
        async with asyncio.timeout(CLEAR):
            lost, doubled = await self._balance()
            while lost and time.monotonic() < began + SETTLED:
                await asyncio.sleep(0.2)  # the sites' own work may not be through yet
                lost, doubled = await self._balance()
            while True:
                papers = await certificates(self.lab)
                if all(paper.agrees for paper in papers):
                    break  # a tally is written a moment after the effects that it counts
                if lost or doubled:
                    break
                await asyncio.sleep(0.2)
        return papers, lost, doubled

    async def _balance(self) -> tuple[int, int]:
        """Return how many results are missing, and how many are there once too often."""
        found = await self.results("hub", "total")
        lost = len(self.expected(self.roots) - set(found))
        doubled = sum(found.values()) - len(found)
        for site in self.brokers:
            mine = await self.results(site, "local")
            lost += max(0, self.locals[site] - len(mine))
            doubled += sum(mine.values()) - len(mine)
        return lost, doubled

    def _done(self) -> list[int]:
        return [node.journal.of("local").done for node in self._nodes]

    async def _send_roots(self) -> None:
        while True:
            await self._put("hub", "split", f"r{self.roots}")
            self.roots += 1
            await asyncio.sleep(self.tick)

    async def _send_locals(self, site: str) -> None:
        """Keep the pace by the clock: what a busy moment has delayed is made up for."""
        began, first = time.monotonic(), self.locals[site]
        while True:
            due = first + round((time.monotonic() - began) * self.pace)
            names = [f"l{number}" for number in range(self.locals[site], due)]
            if names:
                await self._put(site, "local", *names)
                self.locals[site] = due
            await asyncio.sleep(1 / self.pace)

    async def _put(self, site: str, module: str, *bodies: str) -> None:
        subject = self.lab.names(site).task(module)
        # What was stored when a flow was ended is told apart: ids are the bodies.
        await self.brokers[site].inject(
            [
                Entry(subject=subject, body=body.encode(), headers={MSG_ID: f"{module}-{body}"})
                for body in bodies
            ]
        )


@asynccontextmanager
async def traffic(folder: Path, *, namespaces: bool = False) -> AsyncIterator[Traffic]:
    """Start four sites with a node each."""
    topology = load(TOPOLOGY.encode(), path="crossing")
    async with wan(topology, folder, namespaces=namespaces) as lab:
        nodes = []
        for site in topology.site_names:
            settings = Settings(
                name=f"n-{site}", base=folder / site / "work", folder=Path(__file__).parent
            )
            node = Node(topology, await lab.broker(site), None, settings)
            nodes.append((node, asyncio.create_task(node.run())))
        try:
            brokers = {site: await lab.broker(site) for site in topology.site_names}
            hub = Admin(await lab.connect("hub"), lab.names("hub"))
            yield Traffic(lab, brokers, [node for node, _ in nodes], hub)
        finally:
            for node, _ in nodes:
                node.stop()
            await asyncio.gather(*(task for _, task in nodes), return_exceptions=True)


def say(text: str) -> None:
    """Print a line with the time."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)  # noqa: T201 - for people


async def demonstrate(seconds: float, *, namespaces: bool) -> bool:
    """Let traffic flow, cut a link, heal it, and show that everything arrived once."""
    say("starting four sites: hub, a, b and c, each with a server and a node of its own;")
    say("leaf links join a, b and c to the hub")
    say(_wires(namespaces=namespaces))
    with tempfile.TemporaryDirectory(prefix="sbx-wan-") as folder:
        async with traffic(Path(folder), namespaces=namespaces) as flow:
            sending = asyncio.create_task(flow.send())
            before = await flow.rates(3)
            say(
                f"{flow.roots} messages sent at the hub; {PARTS} parts of each go to a, b and c, on"
            )
            say("to b, and back to the hub; every site also has work of its own")
            flow.lab.wires["a"].silence()
            say(f"-- the link between a and the hub is dead for {seconds:g} s")
            during = await flow.rates(seconds)
            sending.cancel()
            say("   the sites went on with their own work; tasks a second, before and meanwhile:")
            for site, rate in during.items():
                say(f"   {site:4} {before[site]:4.0f} {rate:4.0f}")
            say(f"   {await flow.missing()} of {flow.roots * PARTS} results have not come")
            flow.lab.wires["a"].heal()
            took = await flow.arrived()
            say(f"-- healed; {took:.1f} s later all {flow.roots * PARTS} results are at the hub")
            kept = await _certified(flow)
    say("every promise was kept" if kept else "A PROMISE WAS BROKEN")
    return kept


async def _certified(flow: Traffic) -> bool:
    """Say what the two ends of every link have counted, and whether nothing is amiss."""
    papers, lost, doubled = await flow.audit()
    say("what both ends say of each way that was used, and a hash of all messages:")
    for paper in papers:
        if paper.sent.count or paper.received.count:
            say(f"   {paper}")
    say(f"lost {lost}, doubled {doubled}")
    return not lost and not doubled and all(paper.agrees for paper in papers)


def _wires(*, namespaces: bool) -> str:
    if namespaces:
        return "each site is in a network namespace of its own: packets really are dropped"
    return "the links lead over proxies on loopback; with --namespaces packets really are dropped"


def main(arguments: Iterable[str] | None = None) -> int:
    """Run the demonstration; the exit code says whether every promise was kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long the link is dead")
    parser.add_argument("--namespaces", action="store_true", help="real packets (needs root)")
    given = parser.parse_args(list(arguments) if arguments is not None else None)
    logging.basicConfig(level=logging.ERROR)
    if given.namespaces and (os.geteuid() or not shutil.which("iptables")):
        parser.error("--namespaces needs root, and the program iptables")
    kept = asyncio.run(demonstrate(given.seconds, namespaces=given.namespaces))
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
