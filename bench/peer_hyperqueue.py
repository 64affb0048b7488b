"""The peer HyperQueue: server and one worker in this process, a job of programs."""

import time

from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig

from bench.peer_work import WARM_ROUNDS, PeerJob, given, tell


def main() -> None:
    """Run the job's tasks as the programs of one HyperQueue job."""
    job = given()
    with LocalCluster(f"{job.folder}/hq", WorkerConfig(cores=job.slots)) as cluster:
        client = cluster.client()
        client.wait_for_jobs([client.submit(_programs(job, WARM_ROUNDS * job.slots))])
        tasks = _programs(job, job.tasks)
        began = time.perf_counter()
        client.wait_for_jobs([client.submit(tasks)])
        tell(time.perf_counter() - began)


def _programs(job: PeerJob, count: int) -> Job:
    programs = Job()
    for _ in range(count):
        programs.program(list(job.command), stdout=None, stderr=None)
    return programs


if __name__ == "__main__":
    main()
