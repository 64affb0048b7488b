"""A host on which contract tests start nodes, and which they leave as they found it."""

import uuid
from pathlib import Path

import pytest

from scalebox_actors.ports import Runtime
from scalebox_actors.testing.scripted import Host

KINDS = (
    "process",
    pytest.param("docker", marks=pytest.mark.integration),
    pytest.param("oci", marks=pytest.mark.integration),
)
"""Every kind of runtime that really runs programs."""


class Laboratory:
    """A host with one kind of runtime, on which a node can be started again and again."""

    def __init__(self, kind: str, place: Path, host: Host) -> None:
        self.kind, self.place, self.host = kind, place, host
        self.topology = f"t{uuid.uuid4().hex[:12]}"
        self._open: list[Runtime] = []

    async def node(self) -> Runtime:
        """Start a node anew: a runtime that knows nothing of what was before."""
        runtime = await self.runtime()
        self._open.append(runtime)
        return runtime

    async def runtime(self) -> Runtime:
        """Open a runtime of this kind."""
        raise NotImplementedError

    async def kill_node(self, runtime: Runtime) -> None:
        """Let go as a killed node does: without a word, what it started runs on."""
        self._open.remove(runtime)
        await runtime.close()

    async def clean(self) -> None:
        """Remove everything this test has made."""
        sweeper = await self.node()
        for stray in await sweeper.stray({"sbx.topology": self.topology}):
            await sweeper.remove(stray.name)
        for runtime in self._open:
            await runtime.close()
