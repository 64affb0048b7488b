"""A host of any kind whose runs do what a word says."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from contract.laboratory import Laboratory

from scalebox_actors.limits import CONTAINER_LOG_BYTES
from scalebox_actors.ports import Runtime
from scalebox_actors.runtimes import oci_tools
from scalebox_actors.runtimes.docker import DockerRuntime
from scalebox_actors.runtimes.oci import OciRuntime
from scalebox_actors.runtimes.oci_images import ImageStore
from scalebox_actors.runtimes.process import ProcessRuntime
from scalebox_actors.spec import ContainerSpec
from scalebox_actors.testing.scripted import Host, ScriptedRuntime, not_started


class Lab(Laboratory):
    """A host whose runs do what a word says."""

    def __init__(
        self, kind: str, place: Path, image: str, images: ImageStore | None = None
    ) -> None:
        super().__init__(kind, place, Host(program=self._program, images={image, ""}))
        self._image, self._images = image, images

    async def runtime(self) -> Runtime:
        """Open a runtime of this kind."""
        if self.kind == "scripted":
            return ScriptedRuntime(self.host)
        if self.kind == "process":
            return await ProcessRuntime.open(self.place / "state")
        if self._images is not None:
            return await OciRuntime.over(self._images, self.place / "state")
        return await DockerRuntime.open()

    def spec(self, *words: str, name: str = "one", attempt: int = 1) -> ContainerSpec:
        """Return a container that does what `words` say."""
        work = self.place / f"{name}.{attempt}"
        work.mkdir(exist_ok=True)
        work.chmod(0o777)
        return ContainerSpec(
            name=f"sbx-{self.topology}.m.{name}",
            image=self._image,
            command=words if self.kind == "scripted" else self._argv(*words),
            env={"GREETING": "hello"},
            labels={"sbx.topology": self.topology, "sbx.attempt": str(attempt)},
            work=str(work),
            log_bytes=CONTAINER_LOG_BYTES,
        )

    def _argv(self, word: str, text: str = "") -> tuple[str, ...]:
        script = {
            "exit": f"exit {text}",
            "signal": f"kill -{text} $$",
            "sleep": "sleep 300",
            "stubborn": "trap '' TERM; touch ready; while :; do sleep 1; done",
            "write": f'printf "$GREETING" > {text}',
            "print": f"i=0; while [ $i -lt {text} ]; do echo line $i; i=$((i+1)); done; echo e >&2",
        }
        match word:
            case "absent":
                return ("/absent/program",)
            case "unexecutable":
                return ("/etc/passwd",)
        return ("/bin/sh", "-c", script[word])

    async def _program(self, spec: ContainerSpec, work: Path) -> int:
        name = spec.name
        word, text = (*spec.command, "")[:2]
        match word:
            case "exit":
                return int(text)
            case "signal":
                return 128 + int(text)
            case "absent":
                raise not_started(127)
            case "unexecutable":
                raise not_started(126)
            case "write":
                await asyncio.to_thread((work / text).write_text, spec.env["GREETING"])
            case "print":
                lines = b"".join(b"line %d\n" % i for i in range(int(text)))
                self.host.prints(name, stdout=lines, stderr=b"e\n")
            case _:
                await asyncio.Event().wait()
        return 0


@asynccontextmanager
async def word_lab(request: pytest.FixtureRequest, place: Path) -> AsyncIterator[Lab]:
    """Set up a host with the runtime that is asked for, and clean it in the end."""
    image, images = "img", None
    if request.param == "docker":
        image = request.getfixturevalue("busybox_image")
    elif request.param in ("oci", "runc"):
        if request.param == "runc":
            _leave_only_runc(request.getfixturevalue("monkeypatch"))
        images = request.getfixturevalue("oci_images")
        image = images.all()[0][0].name
    made = Lab(request.param, place, image, images)
    yield made
    await made.clean()


def _leave_only_runc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the runtime `oci` see a host without crun."""
    if os.getuid() != 0 or shutil.which("runc") is None:
        pytest.skip("containers by runc: there is no runc here, or this is not root")
    monkeypatch.setattr(oci_tools, "RUNTIMES", ("runc",))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition of the world outside."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - files and processes send no events
            await asyncio.sleep(0.01)
