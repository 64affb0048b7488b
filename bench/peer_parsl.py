"""The peer parsl: its high-throughput executor with a worker process for each slot."""

import time
from collections.abc import Callable
from typing import Any

import parsl
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider

from bench.peer_work import WARM_ROUNDS, given, tell


def main() -> None:
    """Run the job's tasks as Python apps."""
    job = given()
    executor = HighThroughputExecutor(
        label="bench",
        address="127.0.0.1",
        max_workers_per_node=job.slots,
        cores_per_worker=0.01,
        provider=LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1),
    )
    config = Config(executors=[executor], run_dir=job.folder, strategy="none")
    work, warm = job.work(), WARM_ROUNDS * job.slots
    with parsl.load(config):
        app = parsl.python_app(_named(work))
        _all([app(number) for number in range(warm)])
        began = time.perf_counter()
        _all([app(number) for number in range(warm, warm + job.tasks)])
        tell(time.perf_counter() - began)


def _named(work: Callable[[int], None]) -> Callable[[int], None]:
    """Return a function with a name: what parsl takes must have one."""

    def task(number: int) -> None:
        work(number)

    return task


def _all(futures: list[Any]) -> None:
    for future in futures:
        future.result()


if __name__ == "__main__":
    main()
