#!/usr/bin/env python3
"""Talk to a container engine with nothing but the standard library.

For the moments before our own package and its aiodocker are installed: does an engine answer,
what must be removed before it is stopped, import an image, run one container.

    engine.py find            print the host of the engine that answers; exit code 1 if none does
    engine.py ping HOST       exit code 0 if the engine at HOST answers
    engine.py clear HOST      remove every container of the engine at HOST
"""

import http.client
import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import IO
from urllib.parse import quote, urlencode, urlsplit

USUAL_HOST = "unix:///var/run/docker.sock"
LONG = 600.0


class EngineError(Exception):
    """The engine does not answer, or says no."""


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Engine:
    """One Docker-compatible engine, by its host: `unix:///path` or `tcp://host:port`."""

    def __init__(self, host: str) -> None:
        self.host = host

    def call(
        self, method: str, path: str, body: object = None, *, timeout: float = 30.0
    ) -> tuple[int, bytes]:
        """Return status and body of one request; a dict is sent as JSON, a file as it is."""
        connection = self._connection(timeout)
        headers = {"Content-Type": "application/json" if body is None else "application/x-tar"}
        if isinstance(body, dict):
            headers["Content-Type"] = "application/json"
            body = json.dumps(body).encode()
        try:
            connection.request(method, path, body, headers)  # type: ignore[arg-type]  # bytes or file
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise EngineError(f"{self.host} does not answer: {error}") from error
        finally:
            connection.close()

    def ask(self, method: str, path: str, body: object = None, *, timeout: float = 30.0) -> bytes:
        """Return the body of one request, or raise what the engine says against it."""
        status, answer = self.call(method, path, body, timeout=timeout)
        if status >= http.HTTPStatus.BAD_REQUEST:
            raise EngineError(f"{method} {path}: {status} {answer.decode(errors='replace')}")
        return answer

    def answers(self) -> bool:
        """Whether an engine is there, and lets us in."""
        try:
            return self.call("GET", "/_ping", timeout=5.0)[0] == http.HTTPStatus.OK
        except EngineError:
            return False

    def clear(self) -> None:
        """Remove every container, running or not."""
        for container in json.loads(self.ask("GET", "/containers/json?all=1")):
            self.call("DELETE", f"/containers/{container['Id']}?force=1&v=1")

    def labels(self, image: str) -> dict[str, str]:
        """Return the labels of an image; none if there is no such image."""
        status, answer = self.call("GET", f"/images/{quote(image)}/json")
        config = json.loads(answer)["Config"] if status == http.HTTPStatus.OK else None
        return dict((config or {}).get("Labels") or {})

    def import_image(self, name: str, tar: IO[bytes], changes: Sequence[str]) -> None:
        """Make an image out of the tar of a root file system."""
        question = urlencode(
            [
                ("fromSrc", "-"),
                ("repo", name),
                ("tag", "latest"),
                *(("changes", c) for c in changes),
            ]
        )
        answer = self.ask("POST", f"/images/create?{question}", tar, timeout=LONG)
        for line in answer.splitlines():
            if "error" in json.loads(line):
                raise EngineError(f"import of {name}: {line.decode()}")

    def run(self, image: str, command: Sequence[str], mounts: Mapping[str, str]) -> str:
        """Run one container to its end and return what it printed; mounts are source to target."""
        binds = [{"Type": "bind", "Source": s, "Target": t} for s, t in mounts.items()]
        config = {
            "Image": image,
            "Cmd": list(command),
            "NetworkDisabled": True,
            "HostConfig": {"NetworkMode": "none", "Mounts": binds},
        }
        made = json.loads(self.ask("POST", "/containers/create", config))
        try:
            self.ask("POST", f"/containers/{made['Id']}/start")
            ended = json.loads(self.ask("POST", f"/containers/{made['Id']}/wait", timeout=LONG))
            text = self._log(made["Id"])
        finally:
            self.call("DELETE", f"/containers/{made['Id']}?force=1&v=1")
        if ended["StatusCode"] != 0:
            raise EngineError(
                f"{image} {' '.join(command)}: exit code {ended['StatusCode']}\n{text}"
            )
        return text

    def _log(self, container: str) -> str:
        raw = self.ask("GET", f"/containers/{container}/logs?stdout=1&stderr=1")
        pieces, at = [], 0
        while at < len(raw):  # frames: one byte of stream, three of nothing, four of length
            size = int.from_bytes(raw[at + 4 : at + 8], "big")
            pieces.append(raw[at + 8 : at + 8 + size])
            at += 8 + size
        return b"".join(pieces).decode(errors="replace")

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        url = urlsplit(self.host)
        if url.scheme == "unix":
            return _UnixConnection(url.path, timeout)
        if url.scheme in ("tcp", "http") and url.hostname:
            return http.client.HTTPConnection(url.hostname, url.port or 2375, timeout=timeout)
        raise EngineError(f"{self.host}: only unix:// and tcp:// hosts can be asked here")


def find() -> Engine | None:
    """Return the engine of DOCKER_HOST, or the one on the usual socket, if it answers."""
    engine = Engine(os.environ.get("DOCKER_HOST") or USUAL_HOST)
    return engine if engine.answers() else None


def main(arguments: Sequence[str]) -> int:
    """Do what the first argument says."""
    match arguments:
        case ["find"]:
            engine = find()
            if engine is None:
                return 1
            print(engine.host)
        case ["ping", host]:
            return 0 if Engine(host).answers() else 1
        case ["clear", host]:
            Engine(host).clear()
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except EngineError as refusal:
        sys.exit(f"engine: {refusal}")
