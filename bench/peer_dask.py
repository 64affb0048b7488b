"""The peer dask.distributed: a scheduler and worker processes on this host."""

import os
import time

import distributed

from bench.peer_work import WARM_ROUNDS, given, tell


def main() -> None:
    """Run the job's tasks over a cluster of this host."""
    job = given()
    workers = min(job.slots, os.cpu_count() or 1)
    cluster = distributed.LocalCluster(
        n_workers=workers,
        threads_per_worker=job.slots // workers,
        dashboard_address=None,
        local_directory=job.folder,
    )
    work, warm = job.work(), WARM_ROUNDS * job.slots
    with cluster, distributed.Client(cluster) as client:
        client.gather(client.map(work, range(warm), pure=False))
        began = time.perf_counter()
        client.gather(client.map(work, range(warm, warm + job.tasks), pure=False))
        tell(time.perf_counter() - began)


if __name__ == "__main__":
    main()
