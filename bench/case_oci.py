"""Case `oci`: containers without a daemon, against dockerd tuned and as installed."""

import asyncio
import shutil
from functools import partial
from itertools import count
from pathlib import Path

from bench.case_containers import COMMAND, IMAGE, NoImageError, make_image, root_file_system
from bench.children import Job, measured
from bench.figures import Bar, Effort, Figure, alternate
from scalebox_actors.runtimes.oci_images import ImageStore
from scalebox_actors.runtimes.oci_import import import_image

TITLE = "oci runtime alone: containers without a daemon"
HOW = """\
No messages: a loop over the runtime `oci` that starts, waits and removes a hardened container of a
busybox image, each with a writable root and a work directory of its own. Baselines: the loop over
aiodocker of case `containers` on the engine of `DOCKER_HOST`, once with the product's create
request (*tuned*: no network sandbox, crun), once with that of `docker run --network none` (*as
installed*). *By itself*: the same rounds, held to a rate instead of a ratio."""

LEAST = 35.0
RATE = Bar(limit=30)
"""Asked where both of two cores have something to do."""
AT_ONCE = ((1, 40), (2, 60), (4, 80))
"""So many at once, and so many containers of ours to a round; dockerd makes a quarter."""
BASELINES = (
    ("bare-containers", "dockerd tuned", Bar(limit=4, of_ratio=True)),
    ("bare-installed", "dockerd as installed", Bar(limit=10, of_ratio=True)),
)


async def run(folder: Path, effort: Effort) -> list[Figure]:
    """Measure containers per second at three concurrencies, against two baselines."""
    await make_image()
    store = await asyncio.to_thread(stored, folder)
    figures = []
    numbers = count()
    for place, (slots, full) in enumerate(AT_ONCE):
        tasks = effort.pick(full, full // 2)
        for number, (baseline, words, bar) in enumerate(BASELINES):

            async def side(name: str, tasks: int, slots: int = slots) -> float:
                own = folder / f"{name}{next(numbers)}"
                job = Job(folder=str(own), tasks=tasks, slots=slots, image=IMAGE, command=COMMAND,
                          store=str(store))  # fmt: skip
                return tasks / (await measured(name, job)).seconds

            ours, theirs = await alternate(
                effort.share(len(AT_ONCE) * 2 - place * 2 - number),
                partial(side, "bare-oci", tasks),
                partial(side, baseline, tasks // 4),
            )
            name = f"oci, {slots} at once"
            figures.append(_figure(name, ours, words, theirs, bar))
            if slots > 1 and number == 0:
                figures.append(_figure(f"{name}: by itself", ours, words, theirs, RATE))
    return figures


def _figure(
    name: str, ours: tuple[float, ...], against: str, baseline: tuple[float, ...], bar: Bar
) -> Figure:
    return Figure(
        name=name, unit="containers/s", ours=ours, against=against, baseline=baseline, bar=bar
    )


def stored(folder: Path) -> Path:
    """Make an image store in `folder` with the image of the other side."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise NoImageError("no busybox here; Debian's package is busybox-static")
    layer = folder / "layer.tar"
    layer.write_bytes(root_file_system(busybox))
    import_image(ImageStore(folder / "images"), layer, IMAGE)
    return folder / "images"
