"""Case `chain`: what the engine itself costs per task, with nothing to run."""

from functools import partial
from itertools import count
from pathlib import Path

from bench.children import Answer, Job, measured
from bench.figures import Bar, Effort, Figure, alternate
from bench.ground import Ground, chain, ground, inject
from scalebox_actors.topology.render import render

TITLE = "function mode, exactly-once, two modules in a chain"
HOW = """\
Messages wait in the stream before the clock runs. A node in its own process, on uvloop, takes them
through two async functions that do nothing (the first passes the body on), with 256 slots each;
every task ends in a group commit with its done-record, synced to disk, and a double ack. A task is
one message at one module. Baseline: 100 lines by hand over nats-py and the same streams (own pull,
group commit, double ack; no retries, no reconnects, no heart-beats, no checks, no insight). After
each round the stream must hold one done-record per task and nothing else."""

SLOTS = 256
BAR = Bar(limit=3000)


async def run(folder: Path, effort: Effort) -> list[Figure]:
    """Measure tasks per second of a node and of the loop by hand."""
    messages = effort.pick(6000, 2500)
    numbers = count()
    cpu: dict[str, list[float]] = {"engine": [], "bare-chain": []}
    async with ground(folder) as site:

        async def side(name: str) -> float:
            answer = await _round(site, folder, name, next(numbers), messages)
            cpu[name].append(answer.cpu / (2 * messages) * 1e6)
            return 2 * messages / answer.seconds

        ours, baseline = await alternate(
            effort, partial(side, "engine"), partial(side, "bare-chain")
        )
    return [
        Figure(
            name=f"function mode, {messages:,} messages through 2 modules",
            unit="tasks/s",
            ours=ours,
            against="loop by hand",
            baseline=baseline,
            bar=BAR,
        ),
        Figure(
            name="CPU of the node per task",
            unit="µs",
            ours=tuple(cpu["engine"]),
            against="loop by hand",
            baseline=tuple(cpu["bare-chain"]),
        ),
    ]


async def _round(site: Ground, folder: Path, side: str, number: int, messages: int) -> Answer:
    topology = chain(f"chain{number}", SLOTS)
    broker = await site.lay(topology)
    await inject(broker, "first", messages)
    job = Job(
        folder=str(folder / f"{side}{number}"),
        url=site.url,
        topology=render(topology).decode(),
        tasks=2 * messages,
        slots=SLOTS,
    )
    answer = await measured(side, job)
    await site.check(topology, records=2 * messages)
    await site.clear(topology)
    return answer
