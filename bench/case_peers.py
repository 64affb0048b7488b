"""Case `peers`: other tools on the same no-op tasks."""

import time
from functools import partial
from itertools import count
from pathlib import Path

from bench.case_processes import COMMAND
from bench.children import ChildFailedError, Job
from bench.figures import Bar, Effort, Figure, Gap, Measure, take_turns
from bench.ground import Ground, ground, one_function
from bench.peer_work import WARM_ROUNDS, PeerJob
from bench.peers import PEERS, Peer, PeerMissingError, install, peer_seconds
from bench.rounds import engine_seconds, worked_off

TITLE = "other tools: `/bin/true` per task, and a function that does nothing"
HOW = """\
Every tool, and ours, works off the same number of tasks with the same number at once, each side of
a round alone on the machine. Ours as in `processes` and `chain`: messages wait in the stream, and
the time is to the last ack with everything removed; every task is synced to disk and its effects
happen once. The others are installed from PyPI at the versions given, each in an environment of its
own, and started before the clock. All are warmed up with five tasks per slot. The others' time is
from the submission to the last result (taskiq: from the first task's start to the last one's end,
over our own server, synced). What they keep stands beside each: beware of comparing what is in
memory with what is on disk. A ratio below 1 means that ours is quicker. Ends within 25 minutes;
installing, once, takes some more."""

SECONDS = 1200.0
LEAST = 170.0
"""A round of smaller counts: two dozen times a tool is started, warmed up and ended."""
AT_ONCE = (2, 8)
TASKS = {"program": 400, "function": 2000}
NAMES = {"program": "process runtime", "function": "function mode"}
CALLS = 10_000
OWN = Bar(limit=0.5, at_least=False)
AHEAD = Bar(limit=1, at_least=False, of_ratio=True)


async def run(folder: Path, effort: Effort) -> list[Figure | Gap]:
    """Measure the time per task of every tool at two concurrencies, programs and functions."""
    peers, rows = await _installed()
    cases = [(kind, slots) for kind in TASKS for slots in AT_ONCE]
    async with ground(folder) as site:
        table = Table(site, folder, peers)
        for place, (kind, slots) in enumerate(cases):
            rows += await table.rows(effort.share(len(cases) - place), kind, slots)
    return rows


async def _installed() -> tuple[list[Peer], list[Figure | Gap]]:
    peers: list[Peer] = []
    gaps: list[Figure | Gap] = []
    for peer in PEERS:
        try:
            await install(peer)
            peers.append(peer)
        except PeerMissingError as error:
            gaps.append(Gap(name=peer.name, reason=str(error)))
    return peers, gaps


class Table:
    """All tools on one server; what fails is left out of the rounds that follow."""

    def __init__(self, site: Ground, folder: Path, peers: list[Peer]) -> None:
        self._site, self._folder, self._peers = site, folder, peers
        self._numbers = count()
        self._failed: dict[tuple[str, str, int], str] = {}

    async def rows(self, effort: Effort, kind: str, slots: int) -> list[Figure | Gap]:
        """Measure one kind of task at one concurrency."""
        tasks = effort.pick(TASKS[kind], TASKS[kind] // 2)
        able = [peer for peer in self._peers if kind == "program" or peer.functions]
        sides: list[Measure] = [partial(self._ours, kind, slots, tasks)]
        sides += [partial(self._theirs, peer, kind, slots, tasks) for peer in able]
        ours, *others = await take_turns(effort, sides)
        name = f"{NAMES[kind]}, {slots} at once"
        rows: list[Figure | Gap] = []
        if kind == "function":
            rows.append(await self._over(name, ours))
        for peer, theirs in zip(able, others, strict=True):
            title = f"{name}: {peer.name}"
            failure = self._failed.get((peer.name, kind, slots))
            if failure:
                rows.append(Gap(name=title, reason=failure))
                continue
            rows.append(
                Figure(
                    name=title,
                    unit="ms/task",
                    ours=ours,
                    against=peer.title,
                    baseline=theirs,
                    bar=AHEAD,
                )
            )
        rows += [
            Gap(name=f"{name}: {peer.name}", reason="it starts a process for every function")
            for peer in self._peers
            if peer not in able
        ]
        return rows

    async def _over(self, name: str, ours: tuple[float, ...]) -> Figure:
        """Return the engine's own time, beside that of the function itself."""
        began = time.perf_counter()
        for number in range(CALLS):
            await _call(number)
        each = (time.perf_counter() - began) / CALLS * 1000
        return Figure(
            name=f"{name}: the engine's own time",
            unit="ms/task",
            ours=ours,
            against="the function alone, awaited",
            baseline=(each,) * len(ours),
            bar=OWN,
        )

    async def _ours(self, kind: str, slots: int, tasks: int) -> float:
        warm = WARM_ROUNDS * slots
        job = Job(folder=str(self._new()), tasks=tasks, warm=warm, slots=slots, command=COMMAND)
        if kind == "program":
            seconds = await engine_seconds(self._site, job, "process")
        else:
            topology = one_function("functions", slots)
            seconds = await worked_off(self._site, topology, job, "")
        return seconds / tasks * 1000

    async def _theirs(self, peer: Peer, kind: str, slots: int, tasks: int) -> float:
        key = (peer.name, kind, slots)
        if key in self._failed:
            return 0.0
        job = PeerJob(
            kind=kind,
            tasks=tasks,
            slots=slots,
            folder=str(self._new()),
            command=COMMAND,
            url=self._site.url,
        )
        try:
            return await peer_seconds(peer, job) / tasks * 1000
        except ChildFailedError as error:
            self._failed[key] = str(error)
            return 0.0

    def _new(self) -> Path:
        here = self._folder / f"peers{next(self._numbers)}"
        here.mkdir()
        return here


async def _call(number: int) -> None:
    del number
