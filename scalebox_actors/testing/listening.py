"""Ports for servers that are told where to listen before they do."""

import itertools
import random
import socket
from collections.abc import Iterator
from contextlib import suppress

_PORTS = range(15_000, 32_768)
"""Below those that Linux picks by itself, which anything here could get in the meantime."""
_in_turn = itertools.cycle(random.sample(_PORTS, len(_PORTS)))


def free_port(ports: Iterator[int] = _in_turn) -> int:
    """Return a port on which nobody listens on loopback, a different one each time.

    A kernel asked for any free port may name the same one twice before a server has taken it.
    """
    for port in ports:
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise OSError("no port is free")
