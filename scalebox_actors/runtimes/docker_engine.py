"""The connection to a Docker-compatible engine: finding it, asking it, asking it again."""

import asyncio
import json
import logging
import os
import random
import re
import ssl
import stat
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Self, TypeVar

import aiodocker
import aiohttp
import msgspec

from scalebox_actors.errors import NotPermitted, RuntimeUnavailable
from scalebox_actors.limits import ENGINE_CALL
from scalebox_actors.runtimes.docker_answers import Answer, Kind, Step, read_answer
from scalebox_actors.runtimes.docker_body import LOG_DRIVERS, Traits

NEWEST_TESTED = (1, 41)
PATIENCE = 3 * ENGINE_CALL
"""So long a call is repeated while the engine does not answer as it should."""
FOREVER = float("inf")
PAUSES = (0.05, 5.0)
"""The first and the longest pause before a call is repeated."""

_TOO_OLD = re.compile(r"[Mm]inimum supported API version is (\d+\.\d+)")
T = TypeVar("T")
Params = Mapping[str, str | int]
log = logging.getLogger(__name__)


class Plugins(msgspec.Struct, rename={"log": "Log"}):
    """The part of GET /info on plugins that we read."""

    log: list[str] | None = None


class Info(msgspec.Struct, rename="pascal"):
    """The part of GET /info that we read."""

    runtimes: dict[str, msgspec.Raw] | None = None
    plugins: Plugins | None = None
    cgroup_driver: str = ""
    cgroup_version: str = ""


class Engine:
    """One engine: every request passes `call`, which knows what to repeat."""

    def __init__(self, host: str, client: aiodocker.Docker) -> None:
        self.host, self._client = host, client
        self.traits = Traits()

    @classmethod
    async def open(cls, host: str | None, *, deny_list: bool) -> Self:
        """Connect and learn what the engine can do; raises RuntimeUnavailable or NotPermitted."""
        place = host or os.environ.get("DOCKER_HOST", "")
        if not place:
            place = await asyncio.to_thread(_usual_socket)
        url, connector = _connector(place)
        # The version is set before the first request that has one in its path: `auto` would ask
        # GET /version, for which dockerd executes runc.
        client = aiodocker.Docker(url, connector=connector, api_version="v1.41")
        engine = cls(place, client)
        try:
            podman = await engine._pin_version()
            engine.traits = await engine._learn(podman=podman, deny_list=deny_list)
        except BaseException:
            await engine.close()
            raise
        return engine

    async def _pin_version(self) -> bool:
        """Speak the lower of the engine's version and the newest tested; True for podman."""

        async def ping() -> Mapping[str, str]:
            async with self._client._query("_ping", versioned_api=False) as response:  # noqa: SLF001
                return response.headers.copy()

        headers = await self.call(Step.OTHER, ping, patience=0.0)
        if isinstance(headers, Answer):
            raise RuntimeUnavailable(f"{self.host}: {headers.text}")
        major, _, minor = headers.get("Api-Version", "1.41").partition(".")
        version = min((int(major), int(minor)), NEWEST_TESTED)
        self._client.api_version = f"v{version[0]}.{version[1]}"
        return "Libpod-API-Version" in headers

    async def _learn(self, *, podman: bool, deny_list: bool) -> Traits:
        told = await self.call(Step.OTHER, lambda: self.request("GET", "info"))
        if isinstance(told, Answer) and (least := _TOO_OLD.search(told.text)):
            # Newer than what we tested, and so new that it no longer speaks that: try our best.
            self._client.api_version = f"v{least[1]}"
            told = await self.call(Step.OTHER, lambda: self.request("GET", "info"))
        if isinstance(told, Answer):
            raise RuntimeUnavailable(f"{self.host}: {told.text}")
        info = msgspec.json.decode(told, type=Info)
        drivers = (info.plugins and info.plugins.log) or []
        return Traits(
            runtime="crun" if "crun" in (info.runtimes or {}) and not podman else "",
            log_driver=next((driver for driver in LOG_DRIVERS if driver in drivers), ""),
            deny_list=deny_list,
            podman=podman,
            cgroup_driver=info.cgroup_driver,
            cgroup_version=info.cgroup_version,
        )

    @property
    def socket(self) -> str:
        """The path of the engine's socket, which is as good as root."""
        return self.host.partition("unix://")[2] or "/var/run/docker.sock"

    async def ping(self) -> None:
        """Raise RuntimeUnavailable if the engine does not answer."""
        await self.call(Step.OTHER, lambda: self.request("GET", "_ping"), patience=0.0)

    async def request(
        self, method: str, path: str, params: Params | None = None, body: object = None
    ) -> bytes:
        """Make one request and return what came; for use inside `call`."""
        data = None if body is None else json.dumps(body)
        async with self._client._query(path, method, params=params, data=data) as response:  # noqa: SLF001
            return await response.read()

    async def stream(self, path: str, params: Params) -> AsyncGenerator[bytes, None]:
        """Make one request and yield what comes, as it comes; has no time limit of its own."""
        forever = aiohttp.ClientTimeout(total=None, sock_read=None)
        async with self._client._query(path, params=params, timeout=forever) as response:  # noqa: SLF001
            try:
                yield b""  # the engine has answered
                async for piece in response.content.iter_any():
                    yield piece
            finally:
                response.close()

    async def call(
        self,
        step: Step,
        attempt: Callable[[], Awaitable[T]],
        *,
        patience: float = PATIENCE,
        limit: float = ENGINE_CALL,
    ) -> T | Answer:
        """Try until there is an answer; an answer that is no success comes back as Answer.

        Every attempt may be repeated: a container that was made meanwhile is found by its name.
        Raises RuntimeUnavailable when `patience` is over.
        """
        began, pause = time.monotonic(), PAUSES[0]
        while True:
            try:
                async with asyncio.timeout(limit):
                    return await attempt()
            except aiodocker.DockerError as error:
                answer = read_answer(step, error.status, str(error.message))
            except TimeoutError:
                answer = Answer(Kind.TRANSIENT, f"no answer within {limit:g} s")
            except (aiohttp.ClientError, OSError, json.JSONDecodeError) as error:
                answer = Answer(Kind.TRANSIENT, str(error) or type(error).__name__)
            if answer.kind is not Kind.TRANSIENT:
                return answer
            if time.monotonic() - began + pause > patience:
                raise RuntimeUnavailable(f"{self.host}: {answer.text}")
            log.debug("engine_retry", extra={"step": step, "detail": answer.text})
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            pause = min(2 * pause, PAUSES[1])

    async def close(self) -> None:
        """Hang up."""
        await self._client.close()
        await self._client.connector.close()  # it is ours, so the client leaves it open


def _usual_socket() -> str:
    """Return the first of the usual sockets that is there."""
    user = os.environ.get("XDG_RUNTIME_DIR", "")
    places = ["/var/run/docker.sock", "/run/podman/podman.sock"]
    if user:
        places[1:1] = [f"{user}/docker.sock", f"{user}/podman/podman.sock"]
    for place in places:
        try:
            if stat.S_ISSOCK(Path(place).stat().st_mode):
                return f"unix://{place}"
        except OSError:
            continue
    raise RuntimeUnavailable(
        "no container engine: DOCKER_HOST is not set and no usual socket exists"
    )


def _connector(host: str) -> tuple[str, aiohttp.BaseConnector]:
    """Return the client's address and a connector without a limit, at which it would deadlock."""
    scheme, separator, address = host.partition("://")
    if scheme == "unix" and separator:
        return "unix://localhost", aiohttp.UnixConnector(address, limit=0)
    certificates = os.environ.get("DOCKER_CERT_PATH", "")
    tls = scheme == "https" or os.environ.get("DOCKER_TLS_VERIFY", "") not in ("", "0")
    if scheme not in ("tcp", "https") or not separator:
        raise NotPermitted(f"DOCKER_HOST {host!r}: only unix:// and tcp:// with TLS can be used")
    if not tls:
        raise NotPermitted(
            f"{host}: an engine over TCP without TLS gives root to everybody on the network; "
            "use its unix socket, or TLS with DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH"
        )
    try:
        context = ssl.create_default_context(
            cafile=f"{certificates}/ca.pem" if certificates else None
        )
        if certificates:
            context.load_cert_chain(f"{certificates}/cert.pem", f"{certificates}/key.pem")
    except OSError as error:
        raise NotPermitted(f"{host}: certificates in {certificates!r}: {error}") from error
    return f"https://{address}", aiohttp.TCPConnector(ssl=context, limit=0)
