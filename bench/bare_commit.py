"""The baseline of the commit: the same messages in atomic batches, by hand over nats-py."""

import time

import msgspec
import nats
import uvloop

from bench.bare_chain import Line, Requests
from bench.children import Job


def run(job: Job) -> float:
    """Return the seconds in which `job.tasks` were stored in batches of `job.slots` tasks."""
    return uvloop.run(_work(job))


async def _work(job: Job) -> float:
    prefix = f"sbx.{msgspec.yaml.decode(job.topology)['topology']}.local"
    client = await nats.connect(job.url)
    requests = Requests(client)
    await requests.start()
    tasks = [_lines(prefix, number) for number in range(job.tasks)]
    began = time.perf_counter()
    for start in range(0, job.tasks, job.slots):
        group = tasks[start : start + job.slots]
        await requests.store(f"batch{start}", [line for lines in group for line in lines])
    seconds = time.perf_counter() - began
    await client.close()
    return seconds


def _lines(prefix: str, number: int) -> list[Line]:
    record = {"Nats-Expected-Last-Subject-Sequence": "0", "Nats-TTL": "86400s"}
    return [
        (f"{prefix}.done.first.task{number}", b'{"ended":"done"}', record),
        (f"{prefix}.task.second", b"message %d" % number, {"Nats-Msg-Id": f"child{number}"}),
    ]
