"""What the kernel tells of a process's TCP connections; nothing here does I/O.

`/proc/PID/net/tcp` says of every connection how often the same data were sent again without an
answer. That is the one thing that tells a dead link from a slow one: on a slow link something is
acknowledged all the time.
"""

import ipaddress
import sys

import msgspec

_ESTABLISHED = "01"
_WORD = 8
"""Digits of the 32-bit words that an address is written in, each in the host's own byte order."""


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """An established connection as the kernel sees it."""

    inode: int
    host: str
    port: int
    """Of the other end."""
    unanswered: int
    """How often in a row what was sent had to be sent again; 0 as soon as anything is answered."""


def connections(table: str) -> list[Connection]:
    """Return the established connections in the text of `/proc/PID/net/tcp` or `tcp6`."""
    rows = (line.split() for line in table.splitlines()[1:])
    return [_connection(row) for row in rows if row[3] == _ESTABLISHED]


def _connection(row: list[str]) -> Connection:
    address, _, port = row[2].partition(":")
    # Sent again because nothing was acknowledged, or probes of a window that is closed or of a
    # path that takes nothing: either is back at 0 with the first answer.
    again, probes = int(row[6], 16), int(row[8])
    return Connection(
        inode=int(row[9]), host=_host(address), port=int(port, 16), unanswered=max(again, probes)
    )


def _host(digits: str) -> str:
    """Return an address as people write it; one of IPv4 within IPv6 is one of IPv4."""
    words = [digits[at : at + _WORD] for at in range(0, len(digits), _WORD)]
    packed = b"".join(int(word, 16).to_bytes(4, sys.byteorder) for word in words)
    address = ipaddress.ip_address(packed)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
