"""Ports that the laboratories give to servers."""

import socket

from scalebox_actors.testing.listening import free_port


def test_no_port_is_given_twice() -> None:
    """The kernel's own choice went to two servers of one laboratory, once in a few hundred."""
    assert len({free_port() for _ in range(500)}) == 500


def test_a_port_that_somebody_listens_on_is_passed_over() -> None:
    """Whoever listens may be anybody's."""
    first, second = free_port(), free_port()
    with socket.create_server(("127.0.0.1", first)):
        assert free_port(iter([first, second])) == second
