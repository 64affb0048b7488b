"""Case `containers`: a container per message."""

import asyncio
import io
import json
import shutil
import subprocess
import tarfile
from functools import partial
from itertools import count
from pathlib import Path

from bench.bare_containers import body, engine, socket_path
from bench.children import ChildFailedError, Job, measured
from bench.figures import Bar, Effort, Figure, Gap, alternate
from bench.ground import Ground, ground
from bench.modes import FRESH_DOCKER, WARM_DOCKER, Mode
from bench.peer_work import PeerJob
from bench.peers import PEERS, Peer, PeerMissingError, install, peer_seconds
from bench.rounds import worked_off

TITLE = "a container per message, on the engine of DOCKER_HOST"
HOW = """\
As above, with a container of a busybox image per message on the engine of `DOCKER_HOST`. Baseline:
a loop over aiodocker that creates (by the product's own create request, with the same hardening,
limits and a mounted work directory), starts, waits by the stream of events and removes, with the
same number at once; it reads no logs, collects no outputs and commits nothing. dask does the same
calls from its worker threads, with `wait` instead of events, and keeps its tasks in memory. Ends
within ten minutes."""

SECONDS = 480.0
LEAST = 80.0
IMAGE = "sbx/bench:latest"
COMMAND = ("/bin/true",)
BAR = Bar(limit=0.95, of_ratio=True)
ROWS: tuple[tuple[Mode, int, int], ...] = (
    (FRESH_DOCKER, 1, 20),
    (FRESH_DOCKER, 2, 30),
    (FRESH_DOCKER, 4, 60),
    (FRESH_DOCKER, 8, 80),
    (WARM_DOCKER, 4, 60),
)
"""A mode, so many at once, so many tasks to a round."""
DASK_AT_ONCE = 4


class NoImageError(Exception):
    """The image of the benchmark cannot be made here."""


async def run(folder: Path, effort: Effort) -> list[Figure | Gap]:
    """Measure containers per second by mode and concurrency, and dask's."""
    await make_image()
    rows: list[Figure | Gap] = []
    numbers = count()
    async with ground(folder) as site:
        for place, (mode, slots, full) in enumerate(ROWS):
            share, tasks = effort.share(len(ROWS) + 1 - place), effort.pick(full, full // 2)
            name = f"{mode.name}, {slots} at once"
            if mode.missing:
                rows.append(Gap(name=name, reason=mode.missing))
                continue
            ours, baseline = await alternate(
                share,
                partial(_ours, site, folder, (mode, slots, tasks), numbers),
                partial(_bare, folder, slots, tasks, numbers),
            )
            rows.append(
                Figure(
                    name=name,
                    unit="containers/s",
                    ours=ours,
                    against="bare aiodocker loop",
                    baseline=baseline,
                    bar=BAR,
                )
            )
        rows.append(await _against_dask(site, folder, effort, numbers))
    return rows


async def _against_dask(
    site: Ground, folder: Path, effort: Effort, numbers: "count[int]"
) -> Figure | Gap:
    dask = next(peer for peer in PEERS if peer.name == "dask")
    name, slots, tasks = f"docker, fresh, {DASK_AT_ONCE} at once: dask", DASK_AT_ONCE, 40
    try:
        await install(dask)
        ours, theirs = await alternate(
            effort,
            partial(_ours, site, folder, (FRESH_DOCKER, slots, tasks), numbers),
            partial(_dask, dask, folder, (slots, tasks), numbers),
        )
    except (PeerMissingError, ChildFailedError) as error:
        return Gap(name=name, reason=str(error))
    return Figure(
        name=name,
        unit="containers/s",
        ours=ours,
        against=f"{dask.title}; the same Engine calls",
        baseline=theirs,
        bar=Bar(limit=1, of_ratio=True),
    )


async def _ours(
    site: Ground, folder: Path, row: tuple[Mode, int, int], numbers: "count[int]"
) -> float:
    mode, slots, tasks = row
    topology = mode.topology(
        f"containers{next(numbers)}", image=IMAGE, command=COMMAND, slots=slots
    )
    job = Job(folder=str(folder / topology.name), tasks=tasks, slots=slots)
    return tasks / await worked_off(site, topology, job, mode.runtime)


async def _bare(folder: Path, slots: int, tasks: int, numbers: "count[int]") -> float:
    here = str(folder / f"bare{next(numbers)}")
    job = Job(folder=here, tasks=tasks, slots=slots, image=IMAGE, command=COMMAND)
    return tasks / (await measured("bare-containers", job)).seconds


async def _dask(dask: Peer, folder: Path, work: tuple[int, int], numbers: "count[int]") -> float:
    slots, tasks = work
    here = folder / f"dask{next(numbers)}"
    here.mkdir()
    job = Job(folder=str(here), image=IMAGE, command=COMMAND)
    bodies = [json.dumps(await body(job, f"peer-{number}")) for number in range(slots)]
    given = PeerJob(
        kind="container",
        tasks=tasks,
        slots=slots,
        folder=str(here),
        engine=socket_path(),
        bodies=tuple(bodies),
    )
    return tasks / await peer_seconds(dask, given)


async def make_image() -> None:
    """Import an image of a static busybox and the host's `date`, which knows nanoseconds."""
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
        for applet in ("sh", "true"):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        for file in _with_libraries("/bin/date"):
            tar.add(Path(file).resolve(), file.lstrip("/"))
    return packed.getvalue()


def _with_libraries(program: str) -> list[str]:
    """Return a program of the host and the libraries that it is linked to."""
    told = subprocess.run(  # noqa: S603 - a program of the host, by its full path
        ("/usr/bin/ldd", program), capture_output=True, text=True, check=True
    ).stdout
    return [program, *(word for word in told.split() if word.startswith("/"))]
