"""Programs without containers: for development and tests, and it says so.

A run is a process on this host, with the rights of the node's user and without any limit. A
shepherd starts it, so that it outlives the node (shepherded.py).
"""

import logging
import os
import pwd
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from scalebox_actors.errors import SpecRejected
from scalebox_actors.runtimes.shepherded import ShepherdRun, ShepherdRuntime
from scalebox_actors.spec import ContainerSpec

PASSED_ON = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")
"""Of the node's environment; a container has these from its image."""
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,200}")

log = logging.getLogger(__name__)


class ProcessRuntime(ShepherdRuntime):
    """Runs programs as processes of this host, through a shepherd per state directory.

    No isolation: image, limits, network, user and devices of a spec are not applied, and a spec
    that counts on mounts or on another user is refused. `SBX_RUN` is added to the
    environment, by which descendants are found that left their process group.
    """

    kind = "process"
    folder = "sbx-process"

    def __init__(self, state: Path) -> None:
        super().__init__(state)
        self._passed_on = {key: os.environ[key] for key in PASSED_ON if key in os.environ}

    @classmethod
    async def open(cls, state: str | Path | None = None) -> Self:
        """Find or start the shepherd of a state directory; without one, this user's."""
        runtime = await super().open(state)
        # One that was started by an older version may still be there.
        runtime.lanes = (await runtime.ask({"do": "lanes"})).lanes
        log.warning("runtime_process", extra={"detail": "programs run without any isolation"})
        return runtime

    def log(self, run: str, output: str) -> Path:
        """Return where the shepherd keeps what a run printed, by the run's id."""
        return self._state / f"{run}.{output}"

    async def adopt_or_start(self, spec: ContainerSpec) -> ShepherdRun:
        """Return the run named `spec.name`; start it if there is none of this attempt."""
        _check(spec)
        argv, env = (*spec.wrapper, *spec.command), {**self._passed_on, **spec.env}
        lane = {"lane": spec.lane} if spec.lane is not None else {}
        told, adopted = await self.start(spec, argv=argv, env=env, **lane)
        return self.run(told, adopted=adopted)

    async def missing(self, images: Sequence[str]) -> list[str]:  # noqa: ARG002 - none is needed
        """Return nothing: programs are those of the host."""
        return []

    async def identity(self, image: str) -> str:  # noqa: ARG002 - none is needed
        """Return nothing: programs are those of the host."""
        return ""


def _check(spec: ContainerSpec) -> None:
    """Raise SpecRejected for what a plain process cannot give."""
    if not _NAME.fullmatch(spec.name):
        raise SpecRejected(f"{spec.name!r} cannot name a run")
    if not (spec.command or spec.wrapper):
        raise SpecRejected("the process runtime needs a command: there is no image to have one")
    if any("\0" in text for text in (*spec.wrapper, *spec.command, *spec.env, *spec.env.values())):
        raise SpecRejected("an argument or a variable holds a NUL byte")
    for mount in spec.mounts:
        if os.path.realpath(mount.source) != os.path.realpath(mount.target):
            raise SpecRejected(f"the process runtime cannot mount {mount.target}")
    if spec.user and spec.user not in (str(os.getuid()), pwd.getpwuid(os.getuid()).pw_name):
        raise SpecRejected(f"the process runtime cannot run as user {spec.user!r}")
