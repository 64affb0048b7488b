"""Making the connection: who we are, how we come back, and whom we refuse to talk to."""

import asyncio
import contextlib
import random
import re
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from nats import errors as nats_errors
from nats.aio.client import Server

from scalebox_actors.broker.client import Client, Events, NoTls
from scalebox_actors.broker.link import Link
from scalebox_actors.errors import NotPermitted, Unavailable
from scalebox_actors.limits import NATS_PING, NATS_PINGS_LOST
from scalebox_actors.login import read_login
from scalebox_actors.sites import is_loopback

OLDEST_SERVER = (2, 14)
CONNECT_SECONDS = 5.0
RECONNECT_FIRST, RECONNECT_MOST = 0.1, 10.0
ABANDON = 1.0
REFUSALS = 3
"""So often a login that worked may be refused before we believe it: a reload takes a moment."""


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """How to log in; what is None is not used."""

    user: str | None = None
    password: str | None = None
    token: str | None = None
    creds: str | None = None
    """Path of a credentials file with a JWT and its seed."""
    nkeys_seed: str | None = None
    """Path of a file with an nkey seed."""
    login: str | None = None
    """Path of a role's login file, as `conf --keys` makes it."""
    seed: str | None = None
    """An nkey seed itself, of a login that is written nowhere."""
    tls_ca: str | None = None
    """Path of the certificate authority's certificate."""
    insecure: bool = False
    """Whether a server on another host may be spoken to without TLS."""


async def connect(
    url: str,
    *,
    name: str,
    events: Events,
    credentials: Credentials | None = None,
    seconds: float = CONNECT_SECONDS,
) -> Link:
    """Connect to a nats-server, waiting some seconds for it to come up.

    Raises Unavailable if none answers or it is too old, NotPermitted if it refuses the login, or
    if it would be spoken to without TLS on another host.
    """
    given = credentials or Credentials()
    start = _Start(events, tls=needs_tls(url, insecure=given.insecure))
    client = start.client
    try:
        async with asyncio.timeout(seconds):
            await client.connect(url, **start.options(name, given))
    except (TimeoutError, nats_errors.Error, OSError, ValueError) as error:
        await start.abandon()
        reason = start.last or str(error) or type(error).__name__
        raise Unavailable(f"no nats-server answers at {url}: {reason}") from error
    except NotPermitted:
        await start.abandon()
        raise
    try:
        _check_server(client, url)
        link = Link(client, events)
        start.link = link
        await link.start()
    except BaseException:
        await start.abandon()
        raise
    return link


class _Start:
    """Takes nats-py's callbacks, before there is a link and afterwards."""

    def __init__(self, events: Events, *, tls: bool) -> None:
        self.link: Link | None = None
        self.last = ""
        self.client = Client(events, tls=tls)
        self._refused = 0

    async def error(self, error: Exception) -> None:
        self.last = str(error) or type(error).__name__
        if self.link is not None:
            self.link.failed(error)
            self._count_refusal(self.link)
        elif isinstance(error, NoTls):
            raise NotPermitted(str(error))
        elif isinstance(error, ssl.SSLCertVerificationError):
            raise NotPermitted(f"the server is not the one it should be: {error.verify_message}")
        elif isinstance(error, ssl.SSLError):
            raise NotPermitted(f"there is no TLS with this server: {error.reason}")
        elif "authorization" in self.last.lower():
            raise NotPermitted(f"the server refuses our login: {self.last}")

    def _count_refusal(self, link: Link) -> None:
        """Give up once a login was taken away: to ask again for ever would look like an outage."""
        if "authorization" not in self.last.lower():
            return
        self._refused += 1
        if self._refused == REFUSALS:
            reason = f"the server refuses our login: {self.last}"
            link.events("login_refused", reason)
            link.ended(reason)
            self._closing = asyncio.ensure_future(self.abandon())

    async def disconnected(self) -> None:
        if self.link is not None:
            self.link.lost()

    async def reconnected(self) -> None:
        self._refused = 0
        if self.link is not None:
            self.link.back()

    async def closed(self) -> None:
        if self.link is not None and not self.link.closed:
            reason = str(self.client.last_error or "no reason given")
            self.link.events("closed", reason)
            self.link.ended(reason)

    def options(self, name: str, credentials: Credentials) -> dict[str, Any]:
        """Return what nats-py is told; `Any`, as its options have no common type."""
        options: dict[str, Any] = {
            "name": name,
            "error_cb": self.error,
            "disconnected_cb": self.disconnected,
            "reconnected_cb": self.reconnected,
            "closed_cb": self.closed,
            "reconnect_to_server_handler": self.choose,
            "connect_timeout": CONNECT_SECONDS,
            "reconnect_time_wait": RECONNECT_FIRST,
            "max_reconnect_attempts": -1,
            "ping_interval": NATS_PING,
            "max_outstanding_pings": NATS_PINGS_LOST,
            "user": credentials.user,
            "password": credentials.password,
            "token": credentials.token,
            "user_credentials": credentials.creds,
            "nkeys_seed": credentials.nkeys_seed,
        }
        if credentials.login is not None:
            login = read_login(Path(credentials.login).read_text(), credentials.login)
            options["nkeys_seed_str"] = login.seed
            if login.inbox:
                options["inbox_prefix"] = login.inbox
        if credentials.seed is not None:
            options["nkeys_seed_str"] = credentials.seed
        if credentials.tls_ca is not None:
            options["tls"] = ssl.create_default_context(cafile=credentials.tls_ca)
        return options

    def choose(self, servers: list[Server], info: dict[str, Any]) -> tuple[Server, float]:
        """Say which server to try next, and after how long; called before every attempt."""
        del info
        self.client.drop_socket()
        return _backoff(servers)

    async def abandon(self) -> None:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(ABANDON):  # a failed handshake is never closed by the peer
                await self.client.close()


def needs_tls(url: str, *, insecure: bool = False) -> bool:
    """Whether nothing may be said to a server before the connection is encrypted."""
    parts = urlsplit(url if "://" in url else f"nats://{url}")
    return parts.scheme == "tls" or not (insecure or is_loopback(parts.hostname or ""))


def _backoff(servers: list[Server]) -> tuple[Server, float]:
    """Choose the server to try next, and how long to wait first: 0.1 to 10 s with jitter."""
    server = min(servers, key=lambda s: s.reconnects)
    longest = min(RECONNECT_MOST, RECONNECT_FIRST * 2 ** min(server.reconnects, 10))
    return server, longest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret


def _check_server(client: Client, url: str) -> None:
    info = client._server_info  # noqa: SLF001 - nats-py does not show `jetstream`
    version = str(info.get("version", "0"))
    numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:2])
    if numbers < OLDEST_SERVER:
        oldest = ".".join(map(str, OLDEST_SERVER))
        raise Unavailable(
            f"the nats-server at {url} is version {version}; {oldest} or later is needed"
        )
    if not info.get("jetstream"):
        raise Unavailable(f"the nats-server at {url} runs without JetStream")
