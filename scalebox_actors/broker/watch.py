"""The watch over a server's leaf links: one through which nothing comes is closed, and made anew.

Where packets are dropped, TCP sends again after ever longer pauses: once the road is mended it may
stay silent for as long as it was broken, and the server's own pings notice after 15 s at the
earliest. A connection that is made anew is there a second after the road is.
"""

import asyncio
import contextlib
import os
from pathlib import Path

import msgspec

from scalebox_actors.broker.client import NoResponders
from scalebox_actors.broker.link import Link
from scalebox_actors.errors import Transient
from scalebox_actors.limits import LINK_SILENT, LINK_UNANSWERED
from scalebox_actors.sockets import Connection, connections

__all__ = ["Silent", "close", "watch_links"]

TICK = 0.5
PATIENCE = 2.0

_PROC = Path("/proc")
_TABLES = ("net/tcp", "net/tcp6")


class _Leaf(msgspec.Struct, frozen=True):
    """A leaf link, as its server lists it."""

    id: int
    name: str
    ip: str
    port: int


class _Leafs(msgspec.Struct, frozen=True):
    leafs: tuple[_Leaf, ...] = ()


class _Answer(msgspec.Struct, frozen=True):
    data: _Leafs = _Leafs()


class _Kick(msgspec.Struct, frozen=True):
    cid: int


_decode = msgspec.json.Decoder(_Answer).decode
_encode = msgspec.json.Encoder().encode


async def watch_links(link: Link, pid: int) -> None:
    """Close what leaf links of a server are dead, as long as it lives; it dials again itself.

    `link` is a connection to that server's system account, `pid` its process on this host.
    """
    silent = Silent()
    while True:
        await asyncio.sleep(TICK)
        try:
            dead = silent.dead(_of_process(pid), asyncio.get_running_loop().time())
        except FileNotFoundError:
            return  # the process has ended
        if dead:
            # What is not answered is asked again at the next turn.
            with contextlib.suppress(Transient):
                await close(link, dead)


class Silent:
    """Remembers since when connections are not answered."""

    def __init__(self) -> None:
        self._since: dict[int, float] = {}

    def dead(self, seen: list[Connection], now: float) -> list[Connection]:
        """Return those that nothing has answered for too long, given all that there are."""
        self._since = {
            connection.inode: self._since.get(connection.inode, now)
            for connection in seen
            if connection.unanswered
        }
        return [
            connection
            for connection in seen
            if connection.unanswered >= LINK_UNANSWERED
            and now - self._since[connection.inode] >= LINK_SILENT
        ]


def _of_process(pid: int) -> list[Connection]:
    """Return the connections of a process that are not answered now."""
    tables = [(_PROC / str(pid) / table).read_text() for table in _TABLES]
    found = [found for table in tables for found in connections(table) if found.unanswered]
    if not found:
        return []
    own = _inodes(pid)
    return [connection for connection in found if connection.inode in own]


def _inodes(pid: int) -> set[int]:
    """Return the sockets of a process: others in its network may talk to the same address."""
    numbers = set()
    with os.scandir(_PROC / str(pid) / "fd") as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                kind, _, number = str(Path(entry.path).readlink()).partition(":[")
                if kind == "socket":
                    numbers.add(int(number.rstrip("]")))
    return numbers


async def close(link: Link, dead: list[Connection]) -> None:
    """Have the server close those of the connections that are leaf links."""
    ends = {(connection.host, connection.port): connection for connection in dead}
    server = f"$SYS.REQ.SERVER.{link.server_id}"
    try:
        reply = await link.call_once(f"{server}.LEAFZ", b"", PATIENCE)
        for leaf in _decode(reply.body).data.leafs:
            if (leaf.ip, leaf.port) in ends:
                await link.call_once(f"{server}.KICK", _encode(_Kick(leaf.id)), PATIENCE)
                told = f"{leaf.name} at {leaf.ip}:{leaf.port} acknowledges nothing: made anew"
                link.events("link_silent", told)
    except NoResponders:
        link.events("link_not_closed", "this server does not let its links be watched")
