"""Which runtime a node uses: the one it was told, else the first that answers."""

import logging
import os
from pathlib import Path

from scalebox_actors.errors import BadInput, RuntimeUnavailable
from scalebox_actors.ports import Runtime
from scalebox_actors.runtimes.docker import DockerRuntime
from scalebox_actors.runtimes.process import ProcessRuntime

KINDS = (DockerRuntime.kind, ProcessRuntime.kind)

log = logging.getLogger(__name__)


async def open_runtime(
    kind: str | None,
    *,
    state: str | Path | None = None,
    host: str | None = None,
    deny_list: bool = False,
    isolated: bool = False,
) -> Runtime:
    """Return the runtime named `kind`, or without one docker, else process with a warning.

    Never process unasked where isolation is expected: `isolated` says so, or a DOCKER_HOST that
    does not answer. `state` is where the process runtime keeps its runs; `host` and `deny_list`
    go to the docker runtime. Raises RuntimeUnavailable, or NotPermitted for an unsafe engine.
    """
    if kind not in (None, *KINDS):
        raise BadInput(f"runtime {kind!r} is not known: {', '.join(KINDS)}")
    if kind == ProcessRuntime.kind:
        return await ProcessRuntime.open(state)
    try:
        return await DockerRuntime.open(host, deny_list=deny_list)
    except RuntimeUnavailable as error:
        if kind is not None:
            raise
        if isolated or host or os.environ.get("DOCKER_HOST"):
            hint = "`--runtime process` runs programs without isolation"
            raise RuntimeUnavailable(f"{error}; {hint}") from error
        log.warning("runtime_fallback", extra={"detail": f"{error}; using `process`"})
    return await ProcessRuntime.open(state)
