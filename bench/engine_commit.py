"""Our side of the commit: the scribe's effects through the committer, group after group."""

import asyncio
import time

import uvloop

from bench.children import Job
from scalebox_actors.broker import JetStreamBroker, connect
from scalebox_actors.committer import Committer
from scalebox_actors.contract import Emission
from scalebox_actors.effects import Effects, Scribe
from scalebox_actors.message import Message
from scalebox_actors.names import Names, digest
from scalebox_actors.records import Outcome
from scalebox_actors.topology.load import load


def run(job: Job) -> float:
    """Return the seconds in which `job.tasks` were committed in groups of `job.slots`."""
    return uvloop.run(_work(job))


async def _work(job: Job) -> float:
    topology = load(job.topology.encode(), path="bench")
    link = await connect(job.url, name="bench commit", events=_ignore)
    broker = await JetStreamBroker.open(link, Names(topology.name))
    scribe = Scribe(
        topology=topology, names=broker.names, node="bench", body_limit=broker.body_limit
    )
    effects = [_effects(scribe, number) for number in range(job.tasks)]
    committer = Committer(broker)
    working = asyncio.create_task(committer.run())
    began = time.perf_counter()
    for start in range(0, job.tasks, job.slots):
        group = effects[start : start + job.slots]
        await asyncio.gather(*(committer.commit(one) for one in group))
    seconds = time.perf_counter() - began
    working.cancel()
    await link.close()
    return seconds


def _effects(scribe: Scribe, number: int) -> Effects:
    message = Message(module="first", id=digest("bench", number), body=b"message %d" % number)
    emission = Emission(module=None, body=message.body, headers={})
    return scribe.done(message, Outcome(exit_code=0, emissions=(emission,)))


def _ignore(event: str, detail: str) -> None:
    """Say nothing: what was committed is counted in the stream."""
