"""Sites with keys on real servers: hub, a and b, each with its own process and its own folder."""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import msgspec

from scalebox_actors.broker import Credentials, Link, connect, ensure
from scalebox_actors.errors import NotPermitted
from scalebox_actors.keys.folder import login_file, make_keys, read_keys
from scalebox_actors.names import Names
from scalebox_actors.rights import Role
from scalebox_actors.server import find_binary
from scalebox_actors.sites import Ground, server_configuration
from scalebox_actors.testing.listening import free_port
from scalebox_actors.topology.load import load
from scalebox_actors.topology.model import Topology

TOPOLOGY = """
topology: t
sites:
  hub: {hub: true, address: "127.0.0.1:7422"}
  a: {}
  b: {}
modules:
  split: {image: x, site: hub, sinks: [count, spare]}
  count: {image: x, sites: [a, b], sinks: [total]}
  spare: {image: x, site: hub, sinks: []}
  total: {image: x, site: hub, gather: {by: root, count: 2}}
"""
SITES = ("hub", "a", "b")
HUB, A, B = (Names("t", site) for site in SITES)
READY = 10.0
SOON = 0.4
"""How long a denied request is waited for."""


def topology() -> Topology:
    """Three sites, a module that runs at two of them, and one that gathers at the hub."""
    return load(TOPOLOGY.encode(), path="topology.yaml")


class Process:
    """One nats-server with a configuration of ours."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        self.running: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """What the server has written so far."""
        return (self.folder / "log").read_text()

    @property
    def pid(self) -> int:
        """The number of its process."""
        assert self.running is not None
        return self.running.pid

    def start(self) -> None:
        """Start it; does not wait."""
        self.running = subprocess.Popen(  # noqa: S603 - our own binary
            [find_binary(), "-c", str(self.folder / "nats.conf"), "-l", str(self.folder / "log")]
        )

    def ready(self) -> None:
        """Wait until it serves."""
        end = time.monotonic() + READY
        while not (self.folder / "log").exists() or "Server is ready" not in self.log:
            assert time.monotonic() < end, self.log
            time.sleep(0.01)

    def kill(self) -> None:
        """End it without a word."""
        if self.running is not None:
            self.running.kill()
            self.running.wait()
            self.running = None

    def stop(self) -> None:
        """End it; safe to repeat."""
        if self.running is not None:
            self.running.terminate()
            self.running.wait()
            self.running = None


class Islands:
    """The servers of all sites and the keys to them."""

    def __init__(self, root: Path, *, keys: bool) -> None:
        self.topology = topology()
        self.keys: Path | None = root / "keys" if keys else None
        if self.keys:
            make_keys(self.topology, self.keys)
        self.servers: dict[str, Process] = {}
        self.events: list[tuple[str, str]] = []
        self.leaves = leaf = f"127.0.0.1:{free_port()}"
        for site in SITES:
            listen = f"127.0.0.1:{free_port()}"
            folder = self.keys / site if self.keys else root / site
            folder.mkdir(exist_ok=True)
            self.servers[site] = Process(folder, f"nats://{listen}")
            ground = Ground(store=str(folder / "js"), listen=listen, leaf_listen=leaf, hub=leaf)
            self.write(site, ground)

    def write(self, site: str, ground: Ground) -> None:
        """Write the configuration of a site's server."""
        keys = read_keys(self.keys, site) if self.keys else None
        text = server_configuration(self.topology, site, keys, ground)
        (self.servers[site].folder / "nats.conf").write_text(text)

    @asynccontextmanager
    async def link(self, site: str, role: Role) -> AsyncIterator[Link]:
        """Connect for as long as the context lasts; see `login`."""
        link = await self.login(site, role)
        try:
            yield link
        finally:
            await link.close()

    async def login(self, site: str, role: Role) -> Link:
        """Connect to a site's server as somebody; what happens is noted in `events`."""
        login = str(self.keys / site / login_file(role)) if self.keys else None
        return await connect(
            self.servers[site].url,
            name=f"{role} of {site}",
            events=lambda *event: self.events.append(event),
            credentials=Credentials(login=login),
        )

    def denials(self) -> list[str]:
        """Return what the servers denied since this was asked last, as the clients were told."""
        told = [detail for event, detail in self.events if event == "denied"]
        self.events.clear()
        return told


@contextmanager
def islands(root: Path, *, keys: bool = True) -> Iterator[Islands]:
    """Start every site's server, make its streams, and wait until the sites hear each other."""
    here = Islands(root, keys=keys)
    try:
        for server in here.servers.values():
            server.start()
            server.ready()
        asyncio.run(_made(here))
        yield here
    finally:
        for server in here.servers.values():
            server.stop()


async def _made(here: Islands) -> None:
    admins = {site: await here.login(site, Role.ADMIN) for site in SITES}
    for site, admin in admins.items():
        await ensure(admin, here.topology, Names("t", site))
    for origin, target, module in (("a", "hub", "spare"), ("b", "a", "count")):
        async with asyncio.timeout(10):
            await admins[origin].call(Names("t", target).task(module), b"are you there?")
    for site, admin in admins.items():
        await admin.api(f"STREAM.PURGE.{Names('t', site).stream}")
        await admin.close()


async def said(link: Link, subject: str, body: bytes = b"") -> str:
    """Return `denied`, `silence`, or what was answered to a request."""
    try:
        async with asyncio.timeout(SOON):
            reply = await link.call(subject, body)
    except NotPermitted:
        return "denied"
    except TimeoutError:
        return "silence"
    if not reply.body:
        return f"status {reply.status}"
    answer = msgspec.json.decode(reply.body)
    return str(answer.get("error", {}).get("description", "done"))
