"""Case `containers`: a container per message."""

import asyncio
import io
import json
import shutil
import tarfile
from functools import partial
from itertools import count
from pathlib import Path

from bench.bare_containers import engine
from bench.case_processes import engine_seconds
from bench.children import Job, measured
from bench.figures import Bar, Effort, Figure, alternate
from bench.ground import Ground, ground

TITLE = "docker runtime, launch `fresh`: a container per message"
HOW = """\
As above, with a container of a busybox image per message on the engine of `DOCKER_HOST`. Baseline:
a loop over aiodocker that creates (by the product's own create request, with the same hardening,
limits and a mounted work directory), starts, waits by the stream of events and removes, with the
same number at once; it reads no logs, collects no outputs and commits nothing."""

IMAGE = "sbx/bench:latest"
COMMAND = ("/bin/true",)
AT_ONCE = ((1, 20), (4, 40))
"""So many at once, and so many tasks to a round."""
BAR = Bar(limit=0.95, of_ratio=True)


class NoImageError(Exception):
    """The image of the benchmark cannot be made here."""


async def run(folder: Path, effort: Effort) -> list[Figure]:
    """Measure containers per second at two concurrencies."""
    await make_image()
    figures = []
    numbers = count()
    async with ground(folder) as site:
        for place, (slots, full) in enumerate(AT_ONCE):
            tasks = effort.pick(full, full // 2)

            async def side(name: str, slots: int = slots, tasks: int = tasks) -> float:
                return await _round(site, folder / f"{name}{next(numbers)}", name, slots, tasks)

            ours, baseline = await alternate(
                effort.share(len(AT_ONCE) - place),
                partial(side, "engine"),
                partial(side, "bare-containers"),
            )
            figures.append(
                Figure(
                    name=f"docker fresh, {slots} at once",
                    unit="containers/s",
                    ours=ours,
                    against="bare aiodocker loop",
                    baseline=baseline,
                    bar=BAR,
                )
            )
    return figures


async def _round(site: Ground, folder: Path, side: str, slots: int, tasks: int) -> float:
    job = Job(folder=str(folder), tasks=tasks, slots=slots, image=IMAGE, command=COMMAND)
    if side != "engine":
        return tasks / (await measured(side, job)).seconds
    return tasks / await engine_seconds(site, job, "docker")


async def make_image() -> None:
    """Import an image that is nothing but a static busybox."""
    found = await asyncio.to_thread(shutil.which, "busybox")
    if found is None:
        raise NoImageError("no busybox here; Debian's package is busybox-static")
    data = await asyncio.to_thread(root_file_system, found)
    repository, _, tag = IMAGE.partition(":")
    params = {"fromSrc": "-", "repo": repository, "tag": tag}
    headers = {"Content-Type": "application/x-tar"}
    async with (
        engine() as docker,
        docker._query(  # noqa: SLF001 - aiodocker has no import of a root file system
            "images/create", "POST", params=params, data=data, headers=headers
        ) as response,
    ):
        for line in (await response.text()).splitlines():
            if "error" in json.loads(line):
                raise NoImageError(line)


def root_file_system(busybox: str) -> bytes:
    """Return a tar of a busybox with three names."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(Path(busybox).resolve(), "bin/busybox")
        for applet in ("sh", "true", "date"):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return packed.getvalue()
