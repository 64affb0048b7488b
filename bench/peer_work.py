"""What peers do for a task, and what they are told. Standard library only: it runs in theirs."""

import dataclasses
import http.client
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

WARM_ROUNDS = 5
"""So many tasks for each slot before the clock runs: workers are up and have imported all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeerJob:
    """What a peer is to do."""

    kind: str
    """`program`, `function` or `container`."""
    tasks: int
    slots: int
    folder: str
    command: tuple[str, ...] = ()
    url: str = ""
    engine: str = ""
    """The socket of the container engine."""
    bodies: tuple[str, ...] = ()
    """The create requests of containers, one for each slot, as JSON."""

    def work(self) -> Callable[[int], None]:
        """Return what to call for a task, with its number."""
        match self.kind:
            case "function":
                return nothing
            case "program":
                return Program(self.command)
            case _:
                return Container(self.engine, self.bodies)


def given() -> PeerJob:
    """Return the job of the command line."""
    return read_job(sys.argv[1])


def read_job(text: str) -> PeerJob:
    """Return the job that a line of JSON describes."""
    job = json.loads(text)
    job["command"], job["bodies"] = tuple(job["command"]), tuple(job["bodies"])
    return PeerJob(**job)


def tell(seconds: float) -> None:
    """Answer; the last line counts, since tools print as well."""
    sys.stdout.write("\n" + json.dumps({"seconds": seconds}) + "\n")
    sys.stdout.flush()


def nothing(number: int) -> None:
    """Do nothing."""
    del number


@dataclasses.dataclass(frozen=True)
class Program:
    """Runs a program and waits for it."""

    command: tuple[str, ...]

    def __call__(self, number: int) -> None:
        """Run it; the number of the task does not matter."""
        del number
        null = subprocess.DEVNULL
        subprocess.run(  # noqa: S603 - the benchmark's own command
            self.command, stdin=null, stdout=null, stderr=null, check=True
        )


@dataclasses.dataclass(frozen=True)
class Container:
    """Creates, starts, waits for and removes a container over the Engine API."""

    engine: str
    bodies: tuple[str, ...]

    def __call__(self, number: int) -> None:
        """Run one; its work directory is that of the slot which the number falls to."""
        body = self.bodies[number % len(self.bodies)]
        made = self._call("POST", f"/containers/create?name=peer-{number}", body)
        container = json.loads(made)["Id"]
        self._call("POST", f"/containers/{container}/start")
        code = json.loads(self._call("POST", f"/containers/{container}/wait"))["StatusCode"]
        self._call("DELETE", f"/containers/{container}?force=1&v=1")
        if code != 0:
            raise RuntimeError(f"a container ended with {code}")

    def _call(self, method: str, path: str, body: str | None = None) -> bytes:
        connection = _Unix(self.engine)
        try:
            headers = {"Content-Type": "application/json"} if body else {}
            connection.request(method, f"/v1.41{path}", body, headers)
            response = connection.getresponse()
            answer = response.read()
            if response.status >= 300:  # noqa: PLR2004 - everything that is no success
                raise RuntimeError(f"{path}: {response.status} {answer[:200]!r}")
            return answer
        finally:
            connection.close()


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        """Connect to the socket instead of a host."""
        self.sock: Any = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)
