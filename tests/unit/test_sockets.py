"""Reading what the kernel tells of connections, and telling a dead link from a slow one."""

import pytest

from scalebox_actors.broker.watch import Silent
from scalebox_actors.limits import LINK_SILENT, LINK_UNANSWERED
from scalebox_actors.sockets import Connection, connections

HEAD = "sl local_address rem_address st tx_queue rx_queue tr tm->when retrnsmt uid timeout inode"
ROW = (
    "   4: 0200007F:CEC0 {to} {state} 00000018:00000000 01:00000151 {again:08X}     0"
    "        {probes} 4711 2 00000000 80 0 0 10 -1"
)


def table(to: str = "0100007F:1CFE", state: str = "01", again: int = 0, probes: int = 0) -> str:
    """Return a table of one connection, in the order of bytes of this kind of machine."""
    return f"{HEAD}\n{ROW.format(to=to, state=state, again=again, probes=probes)}\n"


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        pytest.param("0100007F:1CFE", ("127.0.0.1", 7422), id="v4"),
        pytest.param(
            "0000000000000000FFFF000002659A0A:9456", ("10.154.101.2", 37974), id="v4-in-v6"
        ),
        pytest.param("B80D0120000000000000000001000000:1CFE", ("2001:db8::1", 7422), id="v6"),
    ],
)
def test_the_other_end_is_read(to: str, expected: tuple[str, int]) -> None:
    """An address is told as nats-server tells it, also one of IPv4 on a socket for both."""
    (found,) = connections(table(to))

    assert (found.host, found.port) == expected
    assert found.inode == 4711


@pytest.mark.parametrize(
    ("again", "probes", "expected"),
    [
        pytest.param(0, 0, 0, id="answered"),
        pytest.param(0x0C, 0, 12, id="sent-again"),
        pytest.param(0, 4, 4, id="window-closed-or-nothing-leaves"),
    ],
)
def test_what_is_not_answered_is_counted(again: int, probes: int, expected: int) -> None:
    """Both ways of the kernel to ask again count."""
    (found,) = connections(table(again=again, probes=probes))

    assert expected == found.unanswered


@pytest.mark.parametrize("state", ["02", "04", "06", "0A"])
def test_only_established_connections_count(state: str) -> None:
    """One that is being opened or closed, and a listener, are none."""
    assert connections(table(state=state)) == []


def seen(unanswered: int, inode: int = 1) -> list[Connection]:
    """Return what the kernel says of one connection."""
    return [Connection(inode=inode, host="10.0.0.1", port=7422, unanswered=unanswered)]


def test_a_link_is_dead_after_some_time_and_some_repeats() -> None:
    """Neither a long pause between two repeats nor many quick ones are enough."""
    silent = Silent()
    few, many = seen(LINK_UNANSWERED - 1), seen(LINK_UNANSWERED)

    assert silent.dead(few, 0.0) == []
    assert silent.dead(many, LINK_SILENT - 0.1) == []
    assert silent.dead(few, LINK_SILENT + 10) == []
    assert silent.dead(many, LINK_SILENT + 10) == many


def test_any_answer_begins_anew() -> None:
    """A slow link acknowledges something now and then, and is never dead."""
    silent = Silent()
    for second in range(60):
        assert silent.dead(seen(5), float(second)) == []
        assert silent.dead(seen(0), second + 0.9) == []


def test_another_connection_is_another() -> None:
    """The connection that was made anew is not blamed for the one before it."""
    silent = Silent()
    silent.dead(seen(3, inode=1), 0.0)

    assert silent.dead(seen(3, inode=2), LINK_SILENT) == []
