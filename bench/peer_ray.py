"""The peer ray: a local cluster with as many CPUs as there are slots, a remote task each."""

import tempfile
import time

import ray

from bench.peer_work import WARM_ROUNDS, given, tell

STORE_BYTES = 128 * 1024 * 1024


def main() -> None:
    """Run the job's tasks as remote functions."""
    job = given()
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as short:  # socket paths are short
        ray.init(
            num_cpus=job.slots,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=STORE_BYTES,
            _temp_dir=short,
        )
        do, warm = job.work(), WARM_ROUNDS * job.slots

        @ray.remote
        def work(number: int) -> None:
            do(number)

        ray.get([work.remote(number) for number in range(warm)])
        began = time.perf_counter()
        ray.get([work.remote(number) for number in range(warm, warm + job.tasks)])
        tell(time.perf_counter() - began)
        ray.shutdown()


if __name__ == "__main__":
    main()
