"""Containers without a daemon: crun or runc on images that lie unpacked on this host.

The shepherd starts them (shepherd_container.py), the image store has their root file systems
(oci_images.py), and oci_config.py says what they may do. Root can limit and measure them by control
groups; another user has them in a namespace in which there is nobody else.
"""

import asyncio
import os
import secrets
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import msgspec

from scalebox_actors.errors import ImageMissing, RuntimeUnavailable, SpecRejected
from scalebox_actors.limits import MEMORY_MINIMUM
from scalebox_actors.ports import Exit
from scalebox_actors.runtimes.arguments import check_arguments
from scalebox_actors.runtimes.init_words import judged_end
from scalebox_actors.runtimes.mounts import real_mounts
from scalebox_actors.runtimes.oci_config import (
    HOST_NETWORK,
    WORK,
    Device,
    Guest,
    Traits,
    arguments,
    container_config,
)
from scalebox_actors.runtimes.oci_images import Image, ImageStore, Stored
from scalebox_actors.runtimes.oci_tools import look_around
from scalebox_actors.runtimes.oci_users import UnknownUserError, identity
from scalebox_actors.runtimes.shepherd_container import INIT
from scalebox_actors.runtimes.shepherd_link import end_shepherd
from scalebox_actors.runtimes.shepherd_main import CONTAINERS
from scalebox_actors.runtimes.shepherd_process import AGAIN
from scalebox_actors.runtimes.shepherded import ShepherdRun, ShepherdRuntime
from scalebox_actors.spec import ContainerSpec

PROBE_SAYS = 1000
_probed: set[Traits] = set()
"""With which means this process has seen a container start."""


class OciRun(ShepherdRun):
    """A container that was started here, by us or by the node before us."""

    async def wait(self) -> Exit:
        """Return how it ended."""
        return await judged_end(await super().wait(), self)


class OciRuntime(ShepherdRuntime):
    """Containers of one state directory, on the images of one store."""

    kind = "oci"
    work_path = WORK
    folder = "sbx-oci"
    shepherd_of = CONTAINERS
    run_class = OciRun

    _images: ImageStore
    _traits: Traits

    @classmethod
    async def over(cls, images: ImageStore, state: str | Path | None = None) -> Self:
        """Find or start the shepherd of a state directory; its containers have these images.

        Raises RuntimeUnavailable where the host lacks something or no container can be started,
        NotPermitted for a store that others can write to.
        """
        traits = await asyncio.to_thread(look_around)
        await asyncio.to_thread(images.check)
        runtime = await cls.open(state)
        runtime._images, runtime._traits = images, traits  # noqa: SLF001 - our own
        try:
            await runtime.probe()
        except BaseException:
            await runtime.close()
            raise
        return runtime

    def log(self, run: str, output: str) -> Path:
        """Return where the shepherd keeps what a run printed, by the run's id."""
        return self._state / run / output

    async def adopt_or_start(self, spec: ContainerSpec) -> ShepherdRun:
        """Return the container named `spec.name`; start it if there is none of this attempt."""
        try:
            box = await self._checked_box(spec)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in AGAIN:
                raise RuntimeUnavailable(f"{spec.image}: {error}") from error
            # Nobody has thought of it, so it is the image's or the module's and not the message's.
            raise SpecRejected(f"{spec.image}: {error}") from error
        try:
            told, adopted = await self.start(spec, box=box)
        except SpecRejected:
            if self._images.find(spec.image) is None:  # it was removed at this moment
                raise ImageMissing(f"no such image: {spec.image}") from None
            raise
        return self.run(told, adopted=adopted)

    async def _checked_box(self, spec: ContainerSpec) -> dict[str, object]:
        _check(spec)
        if self._traits.rootless:
            _check_rootless(spec)
        stored = self._images.find(spec.image)
        if stored is None:
            raise ImageMissing(f"no such image: {spec.image}; see `sbx-actor image import`")
        if spec.mounts:
            guarded = (spec.work, str(self._images.root), str(self._state))
            mounts = await asyncio.to_thread(real_mounts, spec.mounts, guarded)
            spec = msgspec.structs.replace(spec, mounts=mounts)
        return self._box(spec, stored)

    async def probe(self) -> None:
        """Raise RuntimeUnavailable, with the reason, if no container at all can be started here.

        Tried once in a process, with a container of nothing but its init.
        """
        if self._traits in _probed:
            return
        with tempfile.TemporaryDirectory(prefix="sbx-probe-", dir=self._state) as folder:
            name = f"sbx-probe.{secrets.token_hex(8)}"
            spec = ContainerSpec(
                name=name,
                image="",
                command=(),
                env={},
                labels={},
                work=folder,
                memory=None if self._traits.rootless else MEMORY_MINIMUM,
            )
            box = self._box_of_nothing(spec, Path(folder))
            try:
                told, adopted = await self.start(spec, box=box)
            except SpecRejected as error:  # nothing of it is a module's
                raise RuntimeUnavailable(f"no container can be made: {error}") from error
            run = self.run(told, adopted=adopted)
            end, logs = await run.wait(), await run.logs(PROBE_SAYS)
            await self.remove(name)
        if end.code != 0 or end.not_started:
            said = logs.stderr.decode("utf-8", "replace").strip()
            reason = end.detail or said or f"exit code {end.code}"
            raise RuntimeUnavailable(f"{self._traits.runtime[0]} starts no container: {reason}")
        _probed.add(self._traits)

    def _box_of_nothing(self, spec: ContainerSpec, folder: Path) -> dict[str, object]:
        config = container_config(spec, Guest(image=Image(digest="")), self._traits)
        process = config["process"]
        assert isinstance(process, dict)  # noqa: S101 - as made above
        process["args"] = [INIT, "--version"]
        (folder / "rootfs").mkdir()
        (folder / "lock").touch()
        return {
            "config": config,
            "lower": str(folder / "rootfs"),
            "lock": str(folder / "lock"),
            "runtime": self._traits.runtime,
            "memory": spec.memory,
        }

    def _box(self, spec: ContainerSpec, stored: Stored) -> dict[str, object]:
        """Return what the shepherd needs for a container."""
        if not arguments(spec, stored.image):
            raise SpecRejected(f"neither module nor image {spec.image} has a command")
        try:
            who = identity(stored.rootfs, spec.user or stored.image.user)
        except UnknownUserError as error:
            return {"refused": str(error)}
        devices = tuple(map(_device, spec.devices))
        guest = Guest(image=stored.image, identity=who, devices=devices)
        return {
            "config": container_config(spec, guest, self._traits),
            "lower": str(stored.rootfs),
            "lock": str(stored.lock),
            "runtime": self._traits.runtime,
            "memory": spec.memory,
        }

    async def missing(self, images: Sequence[str]) -> list[str]:
        """Return those images that are not in the store."""
        return [image for image in images if self._images.find(image) is None]

    async def identity(self, image: str) -> str:
        """Return where an image's files lie: elsewhere for another image under its name."""
        stored = self._images.find(image)
        return str(stored.rootfs) if stored else ""


async def try_out(images: ImageStore) -> None:
    """Raise RuntimeUnavailable, with the reason, if no container can be started on this host.

    In a state directory of its own, by a shepherd that ends with it: nothing is left behind.
    """
    try:
        place = tempfile.TemporaryDirectory(prefix="sbx-try-")
    except OSError as error:
        raise RuntimeUnavailable(str(error)) from error
    with place as folder:
        state = Path(folder)
        try:
            await (await OciRuntime.over(images, state)).close()
        finally:
            await asyncio.to_thread(end_shepherd, state)


def _check(spec: ContainerSpec) -> None:
    """Raise SpecRejected for what can never be made here."""
    check_arguments(spec)
    try:
        "".join((*spec.command, *spec.env, *spec.env.values())).encode()
    except UnicodeEncodeError:
        raise SpecRejected("an argument or a variable is not UTF-8") from None
    if not Path(spec.work).is_dir():
        raise SpecRejected(f"work directory {spec.work} does not exist")
    if spec.network not in ("", HOST_NETWORK):
        raise SpecRejected(f"network {spec.network!r}: the runtime `oci` knows `host` or none")
    if spec.memory is not None and spec.memory < MEMORY_MINIMUM:
        raise SpecRejected(f"{spec.memory} bytes of memory: {MEMORY_MINIMUM} is the least")


def _check_rootless(spec: ContainerSpec) -> None:
    """Raise SpecRejected for what needs a control group."""
    asked = {"memory": spec.memory, "cpus": spec.cpus}
    limits = " and ".join(name for name, value in asked.items() if value is not None)
    if limits:
        raise SpecRejected(
            f"a limit of {limits} needs control groups, which `oci` makes as root only; leave it "
            "out, or do without with `--unlimited`"
        )


def _device(path: str) -> Device:
    try:
        facts = os.stat(path)  # noqa: PTH116
    except OSError as error:
        raise SpecRejected(f"device {path}: {error.strerror}") from error
    if not (stat.S_ISCHR(facts.st_mode) or stat.S_ISBLK(facts.st_mode)):
        raise SpecRejected(f"device {path}: is no device")
    return Device(
        path=path,
        type="c" if stat.S_ISCHR(facts.st_mode) else "b",
        major=os.major(facts.st_rdev),
        minor=os.minor(facts.st_rdev),
        file_mode=stat.S_IMODE(facts.st_mode),
        uid=facts.st_uid,
        gid=facts.st_gid,
    )
