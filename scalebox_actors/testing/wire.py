"""A wire between two sites that can be cut, silenced, slowed down and mended again.

`ProxyWire` is a TCP proxy on loopback, for anyone; `VethWire` is a pair of virtual interfaces
between two network namespaces, for root, where packets really are lost.
"""

import asyncio
import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

import msgspec

from scalebox_actors.errors import BadInput

_CHUNK = 64 * 1024
_HELD = 128
"""Chunks of one direction that the proxy holds before it stops reading."""
_TICK = 0.01
_SMOOTH = 0.05
"""Seconds that a chunk takes on a wire with little bandwidth, so that it can be cut within more."""


class Way(StrEnum):
    """A direction of a wire, seen from the leaf site that it belongs to."""

    OUT = "out"
    """From the leaf to the hub."""
    IN = "in"
    """From the hub to the leaf."""
    BOTH = "both"


class Wire(Protocol):
    """The wire of one leaf site to the hub."""

    def cut(self) -> None:
        """Break it loudly: connections are reset and new ones refused."""

    def silence(self, way: Way = Way.BOTH) -> None:
        """Let nothing through and tell nobody."""

    def heal(self) -> None:
        """Make it whole again."""

    def passed(self) -> tuple[int, int]:
        """Return the bytes that have crossed, out and in."""


class _Stream:
    """One direction of one connection through a proxy: chunks with the time they may leave."""

    def __init__(self, wire: "ProxyWire", way: Way) -> None:
        self.wire, self.way = wire, way
        self.chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_HELD)

    async def read(self, reader: asyncio.StreamReader) -> None:
        while True:
            data = await reader.read(self.wire.chunk)
            await self.chunks.put((time.monotonic() + self.wire.delay, data))
            if not data:
                return

    async def write(self, writer: asyncio.StreamWriter) -> None:
        while True:
            due, data = await self.chunks.get()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await self.wire.wait_open(self.way)
            if not data:
                return
            if self.wire.bandwidth:
                await self.wire.pay(self.way, len(data))
            self.wire.count(self.way, len(data))
            writer.write(data)
            await writer.drain()


class ProxyWire:
    """A TCP proxy on loopback, with an event loop in a thread of its own."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.delay = 0.0
        """Seconds that each direction takes: half of what a round trip gets longer by."""
        self.bandwidth = 0.0
        """Bytes a second in each direction; 0 is as fast as it goes."""
        self._closed: set[Way] = set()
        self._refusing = False
        self._passed = {Way.OUT: 0, Way.IN: 0}
        self._paid = {Way.OUT: 0.0, Way.IN: 0.0}
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._run, name="sbx-wire", daemon=True)
        self._thread.start()

    # --- the protocol ---------------------------------------------------------------------------

    def cut(self) -> None:
        """Break it loudly: connections are reset and new ones refused."""
        self._refusing = True
        self._call(self._abort)

    def silence(self, way: Way = Way.BOTH) -> None:
        """Let nothing through and tell nobody."""
        self._closed |= {Way.OUT, Way.IN} if way is Way.BOTH else {way}

    def heal(self) -> None:
        """Make it whole again; what a silenced wire held comes through now."""
        self._refusing = False
        self._closed.clear()

    def passed(self) -> tuple[int, int]:
        """Return the bytes that have crossed, out and in."""
        return self._passed[Way.OUT], self._passed[Way.IN]

    def close(self) -> None:
        """End the proxy; safe to repeat."""
        if self._thread.is_alive():
            self._call(self._loop.stop)
            self._thread.join()

    # --- for its streams ------------------------------------------------------------------------

    @property
    def chunk(self) -> int:
        """How many bytes go at once at most."""
        return min(_CHUNK, round(self.bandwidth * _SMOOTH)) if self.bandwidth else _CHUNK

    async def wait_open(self, way: Way) -> None:
        """Wait until data may pass in a direction."""
        while way in self._closed:  # noqa: ASYNC110 - it is opened from another thread
            await asyncio.sleep(_TICK)

    async def pay(self, way: Way, size: int) -> None:
        """Wait as long as `size` bytes take at the wire's bandwidth."""
        start = max(time.monotonic(), self._paid[way])
        self._paid[way] = start + size / self.bandwidth
        await asyncio.sleep(self._paid[way] - time.monotonic())

    def count(self, way: Way, size: int) -> None:
        """Count bytes that cross."""
        self._passed[way] += size

    # --- inside ---------------------------------------------------------------------------------

    def _call(self, work: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(work)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, sock=self._socket))
        try:
            self._loop.run_forever()
        finally:
            server.close()
            self._abort()
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            # A transport that was aborted closes its socket in the loop's next turn.
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()

    def _abort(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if self._refusing:
                writer.transport.abort()
                return
            await self.wait_open(Way.OUT)  # a handshake needs both ways
            await self.wait_open(Way.IN)
            there = await asyncio.open_connection(*self.target)
            self._writers.add(there[1])
            try:
                await self._join((reader, writer), there)
            finally:
                self._writers.discard(there[1])
                there[1].transport.abort()
        except (OSError, asyncio.CancelledError):
            pass  # the other end does not listen now, or we are being closed
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _join(
        self,
        here: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        there: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        """Carry both directions until either has ended."""
        out, back = _Stream(self, Way.OUT), _Stream(self, Way.IN)
        tasks = [
            asyncio.ensure_future(work)
            for work in (
                out.read(here[0]),
                out.write(there[1]),
                back.read(there[0]),
                back.write(here[1]),
            )
        ]
        try:
            await asyncio.wait([tasks[1], tasks[3]], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            with contextlib.suppress(OSError):
                await asyncio.gather(*tasks, return_exceptions=True)


class VethWire(msgspec.Struct):
    """A pair of virtual interfaces between the namespaces of a leaf site and of the hub."""

    leaf: tuple[str, str]
    """The namespace of the leaf site, and its end of the wire there."""
    hub: tuple[str, str]
    rules: list[tuple[str, tuple[str, ...]]] = []
    """What is in force, and in which namespace."""

    def cut(self) -> None:
        """Break it loudly: every segment is answered with a reset."""
        for chain, way in (("INPUT", "-i"), ("OUTPUT", "-o")):
            rule = ("-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset")
            self._rule(self.leaf, chain, way, *rule)

    def silence(self, way: Way = Way.BOTH) -> None:
        """Drop every packet of a direction, where it comes in: who sends it is not told."""
        if way in (Way.IN, Way.BOTH):
            self._rule(self.leaf, "INPUT", "-i", "-j", "DROP")
        if way in (Way.OUT, Way.BOTH):
            self._rule(self.hub, "INPUT", "-i", "-j", "DROP")

    def worsen(self, bandwidth: int, loss: float) -> None:
        """Let no more than so many bytes a second through each way, and lose a part of packets."""
        for namespace, device in (self.leaf, self.hub):
            queue = ("rate", f"{bandwidth * 8}bit", "burst", "4kb", "latency", "2s")
            inside(namespace, "tc", "qdisc", "replace", "dev", device, "root", "tbf", *queue)
        chance = ("-m", "statistic", "--mode", "random", "--probability", f"{loss:g}")
        for end in (self.leaf, self.hub):
            self._rule(end, "INPUT", "-i", *chance, "-j", "DROP")

    def heal(self) -> None:
        """Drop nothing any more."""
        while self.rules:
            namespace, rule = self.rules.pop()
            inside(namespace, "iptables", "-w", "-D", *rule)

    def passed(self) -> tuple[int, int]:
        """Return the bytes that have crossed, out and in."""
        namespace, device = self.leaf
        base = f"/sys/class/net/{device}/statistics"
        text = inside(namespace, "cat", f"{base}/tx_bytes", f"{base}/rx_bytes")
        out, back = text.split()
        return int(out), int(back)

    def _rule(self, end: tuple[str, str], chain: str, way: str, *rule: str) -> None:
        namespace, device = end
        whole = (chain, way, device, *rule)
        inside(namespace, "iptables", "-w", "-A", *whole)
        self.rules.append((namespace, whole))


class Namespaces:
    """A network namespace per site, each leaf's joined to the hub's, all reachable from here.

    Needs root. Nothing of it is connected to any network outside this machine.
    """

    def __init__(self, tag: str, hub: str, leaves: tuple[str, ...]) -> None:
        self.hub, self.leaves = hub, leaves
        self.names = {site: f"sbx-{tag}-{n}" for n, site in enumerate((hub, *leaves))}
        self._tag = tag
        self._net = _free_net()
        try:
            self._make()
        except BadInput:
            self.close()
            raise

    def host(self, site: str) -> str:
        """Return the address at which this process reaches a site's namespace."""
        return f"10.{self._net}.{list(self.names).index(site)}.2"

    def hub_seen_by(self, leaf: str) -> str:
        """Return the hub's address at the wire of a leaf."""
        return f"10.{self._net}.{100 + list(self.names).index(leaf)}.1"

    def wire(self, leaf: str) -> VethWire:
        """Return the wire of a leaf."""
        number = list(self.names).index(leaf)
        return VethWire(
            (self.names[leaf], f"w{self._tag}l{number}"),
            (self.names[self.hub], f"w{self._tag}h{number}"),
        )

    def close(self) -> None:
        """Remove the namespaces, and with them their interfaces."""
        for number, name in enumerate(self.names.values()):
            # The kernel takes its time to take a namespace down, but not a pair of interfaces.
            with contextlib.suppress(BadInput):
                _run("ip", "link", "del", f"m{self._tag}h{number}")
            with contextlib.suppress(BadInput):
                _run("ip", "netns", "del", name)

    def _make(self) -> None:
        for name in self.names.values():
            _run("ip", "netns", "add", name)
            inside(name, "ip", "link", "set", "lo", "up")
        for number, site in enumerate(self.names):
            self._join_here(number, self.names[site])
        for number, site in enumerate(self.leaves, 1):
            self._join_hub(number, self.names[site])

    def _join_here(self, number: int, name: str) -> None:
        here, there = f"m{self._tag}h{number}", f"m{self._tag}n{number}"
        _run("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", name)
        _run("ip", "addr", "add", f"10.{self._net}.{number}.1/30", "dev", here)
        _run("ip", "link", "set", here, "up")
        inside(name, "ip", "addr", "add", f"10.{self._net}.{number}.2/30", "dev", there)
        inside(name, "ip", "link", "set", there, "up")

    def _join_hub(self, number: int, name: str) -> None:
        hub = self.names[self.hub]
        ends = ((hub, f"w{self._tag}h{number}", 1), (name, f"w{self._tag}l{number}", 2))
        (_, first, _), (_, second, _) = ends
        pair = ("ip", "link", "add", first, "type", "veth")
        inside(hub, *pair, "peer", "name", second, "netns", name)
        for space, device, last in ends:
            net = f"10.{self._net}.{100 + number}.{last}/30"
            inside(space, "ip", "addr", "add", net, "dev", device)
            inside(space, "ip", "link", "set", device, "up")


def _free_net() -> int:
    """Return an n of which no interface here has an address 10.n; others may run beside us."""
    taken = _run("ip", "-o", "addr")
    first = os.getpid() % 100
    numbers = (100 + (first + step) % 100 for step in range(100))
    return next(n for n in numbers if f" 10.{n}." not in taken)


def inside(namespace: str, *command: str) -> str:
    """Run a command in a network namespace and return what it printed."""
    return _run("ip", "netns", "exec", namespace, *command)


def _run(*command: str) -> str:
    done = subprocess.run(  # noqa: S603 - fixed programs with arguments of our own
        command, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BadInput(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
