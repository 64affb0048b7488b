"""A WAN in a box: the servers of all sites of a topology, joined by wires that can be cut.

Tests use it, and people: `async with wan(topology, folder) as lab`, then `lab.wires["a"].cut()`.
Everything is on loopback, or with `namespaces=True` (root) in network namespaces of its own.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec

from scalebox_actors.broker import (
    Credentials,
    JetStreamBroker,
    Link,
    connect,
    ensure,
    watch_links,
)
from scalebox_actors.crossing import Tally, received_key, sent_key
from scalebox_actors.errors import BadInput, Unavailable
from scalebox_actors.keys.nkey import new_seed, public_key
from scalebox_actors.ledger import Ledger
from scalebox_actors.names import Names
from scalebox_actors.server import find_binary
from scalebox_actors.sites import Ground, server_configuration
from scalebox_actors.testing.listening import free_port
from scalebox_actors.testing.wire import Namespaces, ProxyWire, Way, Wire
from scalebox_actors.topology.model import Topology

__all__ = ["Certificate", "SiteServer", "Wan", "Way", "certificates", "wan"]

CLIENTS, LEAVES = 4222, 7422
READY = 15.0
_SERVES = "Server is ready"
_CLOSE = 5.0
_POLL = 0.02
_TAIL = 2_000
"""Characters of a server's log that an error repeats."""
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class SiteServer:
    """The nats-server of one site; killed and started again it keeps its address and its data."""

    def __init__(self, folder: Path, configuration: str, address: str, within: str = "") -> None:
        self.folder, self.address = folder, address
        self.url = f"nats://{address}"
        self._prefix = ("ip", "netns", "exec", within) if within else ()
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "nats.conf").write_text(configuration)

    @property
    def pid(self) -> int:
        """Its process id, 0 if it does not run."""
        running = self._process is not None and self._process.poll() is None
        return self._process.pid if self._process and running else 0

    @property
    def log(self) -> str:
        """What it has written so far."""
        path = self.folder / "nats.log"
        return path.read_text(errors="replace") if path.exists() else ""

    async def start(self) -> None:
        """Start it and wait until it serves; nothing happens if it runs."""
        if self.pid:
            return
        begun = len(self.log)
        command = ["-c", str(self.folder / "nats.conf"), "-l", str(self.folder / "nats.log")]
        self._process = subprocess.Popen(  # noqa: ASYNC220, S603 - our own binary, in a moment
            [*self._prefix, find_binary(), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - nothing else sets it in time
        )
        end = time.monotonic() + READY
        while _SERVES not in self.log[begun:]:  # whoever answers at the address may be another
            if not self.pid or time.monotonic() > end:
                raise Unavailable(f"{self.folder.name} did not start: {self.log[begun:]}")
            await asyncio.sleep(_POLL)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in good order; safe to repeat."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            self._process.wait(READY)


class Wan:
    """The sites of a topology; made by `wan`."""

    def __init__(self, topology: Topology, folder: Path, *, durable: bool) -> None:
        self.topology = topology
        self.folder = folder
        self.durable = durable
        self.servers: dict[str, SiteServer] = {}
        self.wires: dict[str, Wire] = {}
        """Leaf site to its wire to the hub."""
        self.events: list[tuple[str, str]] = []
        """What connections made by `connect` had to tell."""
        self.seed = new_seed()
        """The login of whom watches over the links, as `sbx-actor server` does."""
        self._links: list[Link] = []
        self._watches: list[asyncio.Task[None]] = []

    @property
    def leaves(self) -> tuple[str, ...]:
        """Every site but the hub."""
        return self.topology.site_names[1:]

    def names(self, site: str) -> Names:
        """Return the subjects of the topology at a site."""
        return Names(self.topology.name, site)

    async def connect(self, site: str) -> Link:
        """Connect to a site's server; the connection is closed with the laboratory."""
        url = self.servers[site].url
        link = await connect(
            url,
            name="wan",
            events=lambda *said: self.events.append(said),
            credentials=Credentials(insecure=True),  # the wires never leave this machine
            seconds=READY,
        )
        self._links.append(link)
        return link

    async def broker(self, site: str) -> JetStreamBroker:
        """Return the stream of a site over a connection of its own."""
        return await JetStreamBroker.open(await self.connect(site), self.names(site))

    async def deploy(self) -> None:
        """Make the streams and consumers of every site."""
        for site in self.topology.site_names:
            await ensure(await self.connect(site), self.topology, self.names(site))

    def watch(self) -> None:
        """Have somebody watch over the links at each site, whenever its server runs."""
        work = [self._watch(server) for server in self.servers.values()]
        self._watches = [asyncio.create_task(each) for each in work]

    async def joined(self, *, seconds: float = READY) -> None:
        """Wait until every leaf has a link to the hub; raises Unavailable if one gets none."""
        await self.until_linked(len(self.leaves), seconds=seconds)

    async def until_linked(self, count: int, *, seconds: float = READY) -> None:
        """Wait until as many leaves as that were linked; raises Unavailable with what servers say.

        The hub's log tells, from its first line on: a link that was made again counts twice.
        """
        end = time.monotonic() + seconds
        while (there := _leafs(self.servers[self.topology.hub].log)) < count:
            if time.monotonic() > end:
                logs = "\n".join(server.log[-_TAIL:] for server in self.servers.values())
                raise Unavailable(f"{there} of {count} links after {seconds:g} s:\n{logs}")
            await asyncio.sleep(_POLL)

    async def close(self) -> None:
        """Close the connections and end the servers."""
        for watch in self._watches:
            watch.cancel()
        try:
            if self._watches:  # one that dials a server that was killed may take its time
                await asyncio.wait(self._watches, timeout=_CLOSE)
            for link in self._links:
                await link.close()
        finally:
            for server in self.servers.values():
                server.stop()

    async def _watch(self, server: SiteServer) -> None:
        login = Credentials(seed=self.seed, insecure=True)
        while True:
            with contextlib.suppress(Unavailable):
                if not server.pid:
                    raise Unavailable
                told = partial(self._note, server.folder.name)
                link = await connect(server.url, name="watch", events=told, credentials=login)
                try:
                    await watch_links(link, server.pid)
                finally:
                    await link.close()
            await asyncio.sleep(_POLL)

    def _note(self, site: str, event: str, detail: str) -> None:
        self.events.append((event, f"{site}: {detail}"))


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """What both ends of a way from site to site say of what crossed it."""

    origin: str
    target: str
    sent: Tally
    received: Tally
    """Of messages whose tasks have ended there."""

    @property
    def agrees(self) -> bool:
        """Whether the same messages were sent and received, each once."""
        return (self.sent.count, self.sent.hash) == (self.received.count, self.received.hash)

    def __str__(self) -> str:
        word = "agree" if self.agrees else "DIFFER"
        return (
            f"{self.origin} -> {self.target}: sent {self.sent.count} {self.sent.hash[:16]}, "
            f"received {self.received.count} {self.received.hash[:16]}: {word}"
        )


async def certificates(lab: Wan) -> list[Certificate]:
    """Return what each pair of sites says of what crossed, as it is stored at both ends."""
    ledgers = {site: Ledger(await lab.broker(site), "auditor") for site in lab.topology.site_names}
    return [
        Certificate(
            origin=origin,
            target=target,
            sent=await ledgers[origin].totals(sent_key(target)),
            received=await ledgers[target].totals(received_key(origin)),
        )
        for origin in ledgers
        for target in ledgers
        if origin != target
    ]


@asynccontextmanager
async def wan(
    topology: Topology,
    folder: Path,
    *,
    namespaces: bool = False,
    durable: bool = True,
    deploy: bool = True,
    delay: float = 0.0,
) -> AsyncIterator[Wan]:
    """Start every site of a topology, joined by wires, and end all of it afterwards.

    `delay`: seconds that every wire takes each way, from the first byte on, and on loopback only:
    how strongly servers compress a link depends on what they measure when it is made. Raises
    BadInput for both.
    """
    if delay and namespaces:
        raise BadInput("wires between namespaces take no time: `delay` is for those on loopback")
    lab = Wan(topology, folder, durable=durable)
    spaces: Namespaces | None = None
    try:
        if namespaces:
            tag = f"{os.getpid() % 10_000:04d}"
            spaces = Namespaces(tag, topology.hub, lab.leaves)
            _in_namespaces(lab, spaces)
        else:
            _on_loopback(lab, delay)
        await asyncio.gather(*(server.start() for server in lab.servers.values()))
        lab.watch()
        await lab.joined()
        if deploy:
            await lab.deploy()
        yield lab
    finally:
        await lab.close()
        for wire in lab.wires.values():
            if isinstance(wire, ProxyWire):
                wire.close()
        if spaces is not None:
            spaces.close()


def _on_loopback(lab: Wan, delay: float) -> None:
    leaf_port = free_port()
    for site in lab.topology.site_names:
        hub = f"127.0.0.1:{leaf_port}"
        if site != lab.topology.hub:
            wire = lab.wires[site] = ProxyWire(("127.0.0.1", leaf_port))
            wire.delay = delay
            hub = f"127.0.0.1:{wire.port}"
        listen = f"127.0.0.1:{free_port()}"
        ground = _ground(lab, site, listen, hub=hub, leaves=f"127.0.0.1:{leaf_port}")
        _add(lab, site, ground, listen)


def _in_namespaces(lab: Wan, spaces: Namespaces) -> None:
    for site in lab.topology.site_names:
        leaf = site != lab.topology.hub
        hub = f"{spaces.hub_seen_by(site)}:{LEAVES}" if leaf else ""
        if leaf:
            lab.wires[site] = spaces.wire(site)
        ground = _ground(lab, site, f"0.0.0.0:{CLIENTS}", hub=hub, leaves=f"0.0.0.0:{LEAVES}")
        _add(lab, site, ground, f"{spaces.host(site)}:{CLIENTS}", spaces.names[site])


def _ground(lab: Wan, site: str, listen: str, *, hub: str, leaves: str) -> Ground:
    store = lab.folder / site / "js"
    return Ground(
        store=str(store),
        listen=listen,
        hub=hub,
        leaf_listen=leaves,
        durable=lab.durable,
        watch=public_key(lab.seed),
    )


def _add(lab: Wan, site: str, ground: Ground, address: str, within: str = "") -> None:
    text = server_configuration(lab.topology, site, None, ground)
    lab.servers[site] = SiteServer(lab.folder / site, text, address, within)


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _leafs(log: str) -> int:
    return log.count("Leafnode connection created")
