"""Looks at this host and its engine for `sbx-actor doctor`; leaves nothing behind."""

import asyncio
import contextlib
import ctypes
import os
import platform
import resource
import shutil
import socket
import statistics
import struct
import subprocess
import tempfile
import time
from importlib import metadata
from pathlib import Path

from scalebox_actors.broker.connect import OLDEST_SERVER
from scalebox_actors.capacity import host_gpus
from scalebox_actors.errors import SbxError
from scalebox_actors.facts import EngineFacts, Facts, HostFacts, Place
from scalebox_actors.limits import ENGINE_CALL
from scalebox_actors.runtimes.cgroups import host_layout, layout_of
from scalebox_actors.runtimes.choose import oci_unasked
from scalebox_actors.runtimes.docker_survey import survey_engine
from scalebox_actors.runtimes.oci import try_out
from scalebox_actors.runtimes.oci_images import ImageStore
from scalebox_actors.runtimes.oci_tools import look_around
from scalebox_actors.server import find_binary

SYNCS = 9
SYNC_BYTES = 4096
MOUNTS = Path("/proc/mounts")
_PEER = struct.Struct("3i")
TIME_ERROR = 5
"""What the kernel answers while nothing keeps its clock right."""


async def survey(runtime: str | None, work: Path, store: Path, images: Path) -> Facts:
    """Look at everything; an engine that does not answer is a fact like any other.

    `images` is the store of the runtime `oci`, which is looked at where a node would use it.
    """
    engine, fault, oci, oci_fault = None, "", "", ""
    if runtime not in ("process", "oci"):
        try:
            engine = await survey_engine()
        except SbxError as error:
            fault = str(error)
    if runtime == "oci" or (runtime is None and engine is None and await oci_unasked(images)):
        try:
            found = await asyncio.to_thread(survey_oci, images)
            await try_out(ImageStore(images))
            oci = found
        except SbxError as error:
            oci_fault = str(error)
    return Facts(
        host=await asyncio.to_thread(survey_host, work, store, engine),
        runtime=runtime,
        engine=engine,
        engine_fault=fault,
        oci=oci,
        oci_fault=oci_fault,
    )


def survey_oci(images: Path) -> str:
    """Say what starts containers without a daemon, and on how many images. Blocks.

    Raises RuntimeUnavailable for what is missing, NotPermitted for a store open to others.
    """
    program, store = look_around().runtime[0], ImageStore(images)
    store.check()
    count = len({image.digest for _, image in store.all()})
    return f"{program}; images in {store.root}: {count or 'none yet'}"


def survey_host(work: Path, store: Path, engine: EngineFacts | None) -> HostFacts:
    """Look at the host. Blocks for some syncs to disk."""
    mounts = mounts_of(engine)
    data = engine.data_root if engine and mounts else ""
    return HostFacts(
        uid=os.geteuid(),
        cgroups=host_layout().word,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        work=place_of(work),
        store=place_of(store),
        data=place_of(Path(data), mounts) if data and _is_dir(Path(data)) else None,
        engine_cgroups=layout_of(mounts).word if mounts else "",
        clock=clock_is_kept(),
        uvloop=_version_of("uvloop"),
        nats_server=nats_version(),
        nats_oldest=".".join(map(str, OLDEST_SERVER)),
        gpus=host_gpus(),
        machine=platform.machine(),
    )


def mounts_of(engine: EngineFacts | None) -> str:
    """Return the mounts as an engine of this host sees them; empty if that cannot be known."""
    if engine is None or not engine.host.startswith("unix://"):
        return ""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as line:
        line.settimeout(ENGINE_CALL)
        line.connect(engine.host.removeprefix("unix://"))
        told = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        pid = _PEER.unpack(told)[0]
        return _read(Path(f"/proc/{pid}/mounts")) if pid > 1 else _read(MOUNTS)
    return ""


def place_of(path: Path, mounts: str = "") -> Place:
    """Look at a directory, or the one above it that is there; `mounts` as of its user."""
    there = path.absolute()
    while not _is_dir(there) and there != there.parent:
        there = there.parent
    kind = kind_of(there, mounts or _read(MOUNTS))
    return Place(
        path=str(path),
        kind=kind,
        device=there.stat().st_dev,
        free=shutil.disk_usage(there).free,
        sync=None if kind == "tmpfs" else time_of_a_sync(there),
    )


def kind_of(path: Path, mounts: str) -> str:
    """Return the kind of file system a path is on, by the text of `/proc/mounts`. Pure."""
    best, kind = "", ""
    for line in mounts.splitlines():
        _, place, found, _ = (*line.split(" "), "", "", "", "")[:4]
        inside = place == "/" or path == Path(place) or Path(place) in path.parents
        if place and inside and len(place) >= len(best):
            best, kind = place, found
    return kind


def time_of_a_sync(folder: Path) -> float | None:
    """Return the middle of some times that it takes to write through to the disk."""
    times = []
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            for _ in range(SYNCS):
                began = time.perf_counter()
                file.write(b"\0" * SYNC_BYTES)
                os.fdatasync(file.fileno())
                times.append(time.perf_counter() - began)
    except OSError:
        return None
    return statistics.median(times)


def clock_is_kept() -> bool | None:
    """Whether something keeps the clock right, as the kernel knows; None if it cannot be asked."""
    asked = ctypes.create_string_buffer(512)  # larger than `struct timex`; all 0 only asks
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(asked)
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != TIME_ERROR


def nats_version() -> str:
    """Return the version of the nats-server that we would start, or nothing."""
    with contextlib.suppress(SbxError, OSError, subprocess.SubprocessError):
        told = subprocess.run(  # noqa: S603 - the server that we start ourselves
            [find_binary(), "--version"], capture_output=True, text=True, timeout=10, check=True
        )
        return told.stdout.strip().rpartition(" ")[2].lstrip("v")
    return ""


def _version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False
