"""dockerd as it is installed: the loop of bare_containers.py with the request of `docker run`.

Network `none`, its usual runtime, its usual log; nothing of what the product asks for besides.
"""

import asyncio
from pathlib import Path
from typing import Any

from bench.bare_containers import looped
from bench.children import Job


def run(job: Job) -> float:
    """Return the seconds for `job.tasks` containers, `job.slots` of them at once."""
    return asyncio.run(looped(job, body))


async def body(job: Job, name: str) -> dict[str, Any]:
    """Return the create request of `docker run --network none -v WORK:/work`."""
    work = Path(job.folder) / name
    work.mkdir(parents=True)
    mount = {"Type": "bind", "Source": str(work), "Target": "/work"}
    return {
        "Image": job.image,
        "Cmd": [*job.command, "message 1", "{}"],
        "WorkingDir": "/work",
        "HostConfig": {"NetworkMode": "none", "Mounts": [mount]},
    }
