"""Which runtime a node uses: the one it was told, else the first that answers."""

import asyncio
import logging
import os
from pathlib import Path

from scalebox_actors.errors import BadInput, RuntimeUnavailable
from scalebox_actors.ports import Runtime
from scalebox_actors.runtimes.docker import DockerRuntime
from scalebox_actors.runtimes.oci import OciRuntime
from scalebox_actors.runtimes.oci_images import ImageStore
from scalebox_actors.runtimes.oci_tools import has_runtime
from scalebox_actors.runtimes.process import ProcessRuntime

KINDS = (DockerRuntime.kind, OciRuntime.kind, ProcessRuntime.kind)

log = logging.getLogger(__name__)


async def open_runtime(
    kind: str | None,
    *,
    state: str | Path | None = None,
    images: Path | None = None,
    host: str | None = None,
    deny_list: bool = False,
    isolated: bool = False,
) -> Runtime:
    """Return the runtime named `kind`, or without one docker, else oci, else process.

    Never process unasked where isolation is expected: `isolated` says so, or a DOCKER_HOST that
    does not answer; `oci` unasked only where there is an image for it. `state` is where `oci` and
    `process` keep their runs, `images` the store of `oci`; `host` and `deny_list` go to the docker
    runtime. Raises RuntimeUnavailable, or NotPermitted for an unsafe engine.
    """
    if kind not in (None, *KINDS):
        raise BadInput(f"runtime {kind!r} is not known: {', '.join(KINDS)}")
    if kind == ProcessRuntime.kind:
        return await ProcessRuntime.open(state)
    if kind == OciRuntime.kind:
        return await _oci(state, images)
    try:
        return await DockerRuntime.open(host, deny_list=deny_list)
    except RuntimeUnavailable as error:
        if kind is not None:
            raise
        reason = str(error)
    if not host and await oci_unasked(images):
        try:
            return await _oci(state, images)
        except RuntimeUnavailable as error:
            reason = f"{reason}; {error}"
    if isolated or host or os.environ.get("DOCKER_HOST"):
        hint = "`--runtime oci` needs images of its own (`sbx-actor image import`), and "
        hint += "`--runtime process` runs programs without isolation"
        raise RuntimeUnavailable(f"{reason}; {hint}")
    log.warning("runtime_fallback", extra={"detail": f"{reason}; using `process`"})
    return await ProcessRuntime.open(state)


async def _oci(state: str | Path | None, images: Path | None) -> Runtime:
    if images is None:
        raise RuntimeUnavailable("the runtime `oci` needs an image store")
    # A folder of its own: a shepherd looks after one kind of runs.
    own = f"{state}.oci" if state is not None else None
    return await OciRuntime.over(ImageStore(images), own)


async def oci_unasked(images: Path | None) -> bool:
    """Whether `oci` is taken where no engine answers: somebody has made this host ready for it.

    A crun alone does not mean that, and who names an engine wants that one.
    """
    if images is None or os.environ.get("DOCKER_HOST") or not has_runtime():
        return False
    return not await asyncio.to_thread(ImageStore(images).empty)
