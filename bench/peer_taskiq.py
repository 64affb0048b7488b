"""The peer taskiq with its NATS broker: the tasks wait in a JetStream stream of our own server.

Imported by its worker as well, which writes down when its first task began and its last one ended.
"""

import asyncio
import os
import sys
import time
from pathlib import Path

from taskiq_nats import PullBasedJetStreamBroker

from bench.peer_work import read_job, tell

JOB = "SBX_BENCH_JOB"
NAME = "SBX_BENCH_STREAM"
LOOK = 0.02


if JOB not in os.environ:  # we are the first, and not the worker
    os.environ[JOB] = sys.argv[1]
    os.environ[NAME] = f"peer{time.time_ns()}"
job = read_job(os.environ[JOB])
broker = PullBasedJetStreamBroker(
    servers=job.url,
    subject=os.environ[NAME],
    stream_name=os.environ[NAME],
    durable=os.environ[NAME],
    pull_consume_batch=job.slots,
    pull_consume_timeout=1.0,
)
answer = Path(job.folder) / "answer"
counts = {"begun": 0.0, "left": job.tasks}


@broker.task(task_name="work")
async def work(number: int) -> None:
    """Do one task, and count it."""
    del number
    counts["begun"] = counts["begun"] or time.perf_counter()
    if job.kind == "program":
        null = asyncio.subprocess.DEVNULL
        child = await asyncio.create_subprocess_exec(
            *job.command, stdin=null, stdout=null, stderr=null
        )
        await child.wait()
    counts["left"] -= 1
    if counts["left"] == 0:
        seconds = time.perf_counter() - counts["begun"]
        (answer.parent / "unfinished").write_text(str(seconds))
        (answer.parent / "unfinished").rename(answer)


async def main() -> None:
    """Let the tasks wait, then start a worker and wait for its answer."""
    await broker.startup()
    await asyncio.gather(*(work.kiq(number) for number in range(job.tasks)))
    await broker.shutdown()
    worker = await asyncio.create_subprocess_exec(
        *("taskiq", "worker", "bench.peer_taskiq:broker", "--workers", "1"),
        *("--max-async-tasks", str(job.slots), "--no-configure-logging"),
        stdout=sys.stderr,
    )
    while worker.returncode is None and not answer.exists():  # noqa: ASYNC110 - another process
        await asyncio.sleep(LOOK)
    if not answer.exists():
        raise SystemExit(f"the worker ended with {worker.returncode}")
    tell(float(answer.read_text()))
    worker.terminate()
    await worker.wait()


if __name__ == "__main__":
    asyncio.run(main())
