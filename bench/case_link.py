"""Case `link`: what a link between two sites costs, in time and in bytes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path

import msgspec

from bench.children import Job, measured
from bench.figures import Bar, Effort, Figure, alternate
from bench.ground import Ground, UnsoundError, chain, ground, inject
from scalebox_actors.testing.wan import Wan, wan
from scalebox_actors.topology.model import Site, Topology
from scalebox_actors.topology.render import render

TITLE = "a link between two sites, at 0 and at 60 ms round trip"
HOW = """\
Two nats-servers that sync every write, joined by a leaf link over a proxy that delays each
direction by half of the round trip. *Into a queue*: small messages (about 90 bytes) are stored at
one site as `send` stores them, and a node there carries them at the same time; the clock stops when
the last one is on the other site's disk and has left the first one. Baseline: the same messages
into the same module where both are at one site, so that nothing is carried. *Through two modules*:
messages wait before the clock runs; the first module passes them on, the second is at the other
site, every task ends in a group commit and an ack. Baseline: both modules at one site. *Bytes* are
those of both directions on the wire; baseline: the same with `compression: off` on the link. After
each round the streams must hold every message, or every done-record, and nothing else."""

LEAST = 28.0
ROUND_TRIP = 0.06
SLOTS = 256
RATE = Bar(limit=5000)
SHARE = Bar(limit=0.7, of_ratio=True)
SITES = {"near": Site(name="near", hub=True, address="127.0.0.1:7422"), "far": Site(name="far")}


async def run(folder: Path, effort: Effort) -> list[Figure]:
    """Measure messages per second and bytes per message, each against what a link is not in."""
    numbers = count()
    async with ground(folder) as site:
        lab = _Laboratory(folder, site, numbers)
        return [
            await lab.queue(effort.share(4), 0.0, SHARE),
            await lab.queue(effort.share(3), ROUND_TRIP, RATE),
            await lab.relay(effort.share(2)),
            await lab.bytes(effort.share(1)),
        ]


class _Laboratory:
    """Sites that are made anew for each measurement, and one that is not."""

    def __init__(self, folder: Path, site: Ground, numbers: "count[int]") -> None:
        self._folder = folder
        self._site = site
        self._numbers = numbers

    async def queue(self, effort: Effort, round_trip: float, bar: Bar) -> Figure:
        """Measure how quickly messages come into a queue at the other site."""
        messages = effort.pick(30_000, 10_000)
        ours, baseline = await alternate(
            effort,
            partial(self._queued_there, messages, round_trip),
            partial(self._queued_here, messages),
        )
        return Figure(
            name=f"into a queue, {round_trip * 1000:.0f} ms, {messages:,} messages",
            unit="messages/s",
            ours=ours,
            against="at one site",
            baseline=baseline,
            bar=bar,
        )

    async def relay(self, effort: Effort) -> Figure:
        """Measure tasks per second through a module at each site."""
        messages = effort.pick(3000, 1000)
        ours, baseline = await alternate(
            effort, partial(self._relayed_there, messages), partial(self._relayed_here, messages)
        )
        return Figure(
            name=f"through two modules, {ROUND_TRIP * 1000:.0f} ms, {messages:,} messages",
            unit="tasks/s",
            ours=ours,
            against="both at one site",
            baseline=baseline,
            bar=SHARE,
        )

    async def bytes(self, effort: Effort) -> Figure:
        """Measure what a message takes on the link, compressed and not."""
        messages = effort.pick(10_000, 5000)
        ours, baseline = await alternate(
            effort, partial(self._weighed, messages), partial(self._weighed, messages, plain=True)
        )
        return Figure(
            name=f"on the link, {ROUND_TRIP * 1000:.0f} ms",
            unit="bytes/message",
            ours=ours,
            against="compression: off",
            baseline=baseline,
            bar=Bar(limit=0.7, at_least=False, of_ratio=True),
        )

    async def _queued_there(self, messages: int, round_trip: float) -> float:
        async with self._joined(self._topology(), round_trip) as lab:
            return messages / await _carried(lab, messages)

    async def _queued_here(self, messages: int) -> float:
        topology = chain(f"queue{next(self._numbers)}", SLOTS)
        broker = await self._site.lay(topology)
        answer = await measured("engine-link", self._job(topology, messages, self._site.url))
        waiting = (await broker.backlog("second")).waiting
        if waiting != messages:
            raise UnsoundError(f"link: {waiting} of {messages} messages are there")
        await self._site.clear(topology)
        return messages / answer.seconds

    async def _relayed_there(self, messages: int) -> float:
        topology = self._topology()
        async with self._joined(topology, ROUND_TRIP) as lab:
            await inject(await lab.broker("near"), "first", messages)
            job = self._job(topology, 2 * messages, lab.servers["near"].url)
            job = msgspec.structs.replace(job, far=lab.servers["far"].url)
            answer = await measured("engine-relay", job)
            for site in SITES:
                await _check(lab, site, messages)
        return 2 * messages / answer.seconds

    async def _relayed_here(self, messages: int) -> float:
        topology = chain(f"relay{next(self._numbers)}", SLOTS)
        await inject(await self._site.lay(topology), "first", messages)
        answer = await measured("engine-relay", self._job(topology, 2 * messages, self._site.url))
        await self._site.check(topology, records=2 * messages)
        await self._site.clear(topology)
        return 2 * messages / answer.seconds

    async def _weighed(self, messages: int, *, plain: bool = False) -> float:
        async with self._joined(self._topology(), ROUND_TRIP, plain=plain) as lab:
            before = sum(lab.wires["far"].passed())
            await _carried(lab, messages)
            return (sum(lab.wires["far"].passed()) - before) / messages

    @asynccontextmanager
    async def _joined(
        self, topology: Topology, round_trip: float, *, plain: bool = False
    ) -> AsyncIterator[Wan]:
        """Start both sites with a wire between them."""
        folder, delay = self._folder / topology.name, round_trip / 2
        async with wan(topology, folder, deploy=False, delay=delay) as lab:
            if plain:
                await _uncompressed(lab)
            await lab.deploy()
            yield lab

    def _topology(self) -> Topology:
        """Return the chain with its second module at the other site."""
        one = chain(f"link{next(self._numbers)}", SLOTS)
        modules = {
            name: msgspec.structs.replace(module, sites=(site,))
            for (name, module), site in zip(one.modules.items(), SITES, strict=True)
        }
        return msgspec.structs.replace(one, sites=SITES, modules=modules)

    def _job(self, topology: Topology, tasks: int, url: str) -> Job:
        return Job(
            folder=str(self._folder / f"work-{topology.name}"),
            url=url,
            topology=render(topology).decode(),
            tasks=tasks,
            slots=SLOTS,
        )


async def _carried(lab: Wan, messages: int) -> float:
    """Let messages be sent and carried; return the seconds that it took."""
    job = Job(
        folder=str(lab.folder / "work"),
        url=lab.servers["near"].url,
        topology=render(lab.topology).decode(),
        tasks=messages,
    )
    answer = await measured("engine-link", job)
    there = (await (await lab.broker("far")).backlog("second")).waiting
    here = await (await lab.broker("near")).waiting_to("far")
    if (there, here) != (messages, 0):
        raise UnsoundError(f"link: {there} of {messages} messages are there, {here} are left")
    return answer.seconds


async def _check(lab: Wan, site: str, records: int) -> None:
    """Raise unless a site holds exactly so many done-records and nothing else."""
    stored = len(await (await lab.broker(site)).read_all(">", most=10 * records))
    if stored != records:
        raise UnsoundError(f"{site}: {stored} records instead of {records}")


async def _uncompressed(lab: Wan) -> None:
    """Start the servers again without compression on their link."""
    for server in lab.servers.values():
        server.stop()
        file = server.folder / "nats.conf"
        file.write_text(file.read_text().replace('"s2_auto"', '"off"'))
    for server in lab.servers.values():
        await server.start()
    await lab.until_linked(2)
