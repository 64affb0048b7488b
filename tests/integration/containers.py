"""A runtime of containers on this host, and specs of containers that are removed with it."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Generic, TypeVar

from scalebox_actors.ports import Exit, Runtime
from scalebox_actors.runtimes.docker import DockerRuntime
from scalebox_actors.runtimes.oci import OciRuntime
from scalebox_actors.runtimes.oci_images import ImageStore
from scalebox_actors.spec import ContainerSpec

MIB = 1024 * 1024
PROBE = r"""
grep -E '^(Cap...|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\t'
echo interfaces: $(tail -n +3 /proc/net/dev | cut -d: -f1)
echo files: $(ulimit -n)
echo directory: $(pwd)
echo user: $(id -u)
touch /work/w 2>/dev/null && echo work writable
touch /tmp/t 2>/dev/null && echo tmp writable
touch /r 2>/dev/null && echo root writable
mount -t tmpfs none /mnt 2>/dev/null && echo mounted
mknod /work/n c 1 3 2>/dev/null && echo node made
su nobody -c true 2>/dev/null && echo changed user
ping -c 1 -W 1 127.0.0.1 >/dev/null 2>&1 && echo pinged
unshare -U true 2>/dev/null && echo namespace made
chroot / true 2>/dev/null && echo root changed
echo 1 2>/dev/null >/proc/sys/kernel/sysrq && echo kernel changed
cat /proc/keys 2>/dev/null | grep -q . && echo keys read
exit 0
"""
"""Tells what a container is, and tries what it must not be able to do."""
CLOSED = [
    *(f"{name}:0000000000000000" for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")),
    "NoNewPrivs:1",
    "Seccomp:2",
    "interfaces: lo",
    "files: 1024",
    "directory: /work",
]
"""What every container of ours says to the probe, before its user and what that may write."""

AnyRuntime = TypeVar("AnyRuntime", bound=Runtime)


class Bench(Generic[AnyRuntime]):
    """A runtime, and specs of containers that are removed with it."""

    def __init__(self, runtime: AnyRuntime, place: Path, image: str) -> None:
        self.runtime, self._image = runtime, image
        self.topology = f"t{uuid.uuid4().hex[:12]}"
        self.state = place / "state"
        """Where a shepherd has its own."""
        self.work = place / "work"
        self.work.mkdir()
        self.work.chmod(0o777)

    def spec(self, script: str, name: str = "one") -> ContainerSpec:
        """Return a container that runs a shell script."""
        return ContainerSpec(
            name=f"sbx-{self.topology}.m.{name}",
            image=self._image,
            command=("/bin/sh", "-c", script),
            env={},
            labels={"sbx.topology": self.topology, "sbx.attempt": "1"},
            work=str(self.work),
        )

    async def ends(self, spec: ContainerSpec) -> Exit:
        """Run a container to its end."""
        return await (await self.runtime.adopt_or_start(spec)).wait()

    async def says(self, spec: ContainerSpec) -> list[str]:
        """Run a container to its end and return the lines it printed."""
        run = await self.runtime.adopt_or_start(spec)
        await run.wait()
        return (await run.logs(100_000)).stdout.decode().splitlines()


@asynccontextmanager
async def on_docker(place: Path, image: str) -> AsyncIterator[Bench[DockerRuntime]]:
    """Open a bench on the engine that DOCKER_HOST names."""
    runtime = await DockerRuntime.open()
    made = Bench(runtime, place, image)
    yield made
    await _clean(runtime, made.topology)


@asynccontextmanager
async def on_oci(place: Path, images: ImageStore) -> AsyncIterator[Bench[OciRuntime]]:
    """Open a bench without a daemon, with a state directory of its own and the store's image."""
    runtime = await OciRuntime.over(images, place / "state")
    made = Bench(runtime, place, image_of(images))
    yield made
    await _clean(runtime, made.topology)


async def _clean(runtime: Runtime, topology: str) -> None:
    for stray in await runtime.stray({"sbx.topology": topology}):
        await runtime.remove(stray.name)
    await runtime.close()


def image_of(images: ImageStore) -> str:
    """Return the name of a store's image."""
    return next(named.name for named, _ in images.all() if named)
