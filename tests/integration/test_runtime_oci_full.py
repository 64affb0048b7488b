"""Containers with their state on a full disk: ends stay what they were, what failed is repeated."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from integration.containers import image_of

from scalebox_actors.runtimes.oci_images import ImageStore

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

ON_A_FULL_DISK = """
mkdir "$1/one" "$1/two" && mount -t tmpfs -o size=512k none "$1/one" || exit 1
mount -t tmpfs -o size=512k none "$1/two" || exit 1
# What crun gives back when a container ends must not be what we count on.
mkdir "$1/one/runtime" && mount -t tmpfs -o size=512k none "$1/one/runtime" || exit 1
"$2" -c '
import asyncio, sys
from pathlib import Path
from scalebox_actors.runtimes.oci import OciRuntime
from scalebox_actors.runtimes.oci_images import ImageStore
from scalebox_actors.spec import ContainerSpec

def fill(state, left):
    with open(state / "filling", "wb", 0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate((file.tell() // 4096 - left) * 4096)

async def main(place, images, image):
    place, store = Path(place), ImageStore(Path(images))
    one = await OciRuntime.over(store, place / "one")
    two = await OciRuntime.over(store, place / "two")
    script = "touch up; until [ -e go ]; do sleep 0.02; done"
    spec = ContainerSpec(
        name="sbx-f.m.a", image=image, command=("sh", "-c", script), env={}, labels={},
        work=str(place),
    )
    run = await one.adopt_or_start(spec)
    while not (place / "up").exists():
        await asyncio.sleep(0.02)
    fill(place / "one", 0)
    (place / "go").touch()
    end = await run.wait()
    print(end.code, end.lost, end.finished > end.started)
    fill(place / "two", 9)
    end = await (await two.adopt_or_start(spec)).wait()
    print(end.lost, end.not_started)
    for runtime in (one, two):
        await runtime.remove(spec.name)
        await runtime.close()

asyncio.run(main(sys.argv[1], *sys.argv[2:]))
' "$1" "$3" "$4"
kill $(cat "$1/one/shepherd.pid" "$1/two/shepherd.pid")
"""


def test_a_full_disk_makes_no_end_of_another(
    oci_images: ImageStore, tmp_path: Path, cannot_run: Callable[[str], NoReturn]
) -> None:
    """Who ended with 0 has done so, and what crun had no room for says nothing of the module."""
    if os.getuid() != 0:
        cannot_run("only root can mount a small disk")
    words = ["unshare", "--mount", "sh", "-c", ON_A_FULL_DISK, "-", str(tmp_path), sys.executable]

    done = subprocess.run(  # noqa: S603 - our own words
        [*words, str(oci_images.root), image_of(oci_images)], capture_output=True, check=False
    )

    assert (done.stdout, done.stderr) == (b"0 False True\nTrue False\n", b"")
