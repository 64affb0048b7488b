"""The shepherd's end of the line: news that can wait is told with others, and in its place."""

import json
import resource
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from scalebox_actors.runtimes.shepherd_client import KEPT, TOGETHER, Client, Clients
from scalebox_actors.runtimes.shepherd_journal import Json


class Line:
    """Clients of a shepherd in this process, and the far end of one of them."""

    def __init__(self, place: Path) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(place))
        self.listener.listen(4)
        self.poll = select.epoll()
        self.clients = Clients(self.listener, self.poll, self._obey)
        self.far = self.connect(place)
        self.asked: list[tuple[Client, Json]] = []

    def connect(self, place: Path) -> socket.socket:
        """Connect a node."""
        far = socket.socket(socket.AF_UNIX)
        far.connect(str(place))
        far.setblocking(False)
        self.turn()
        return far

    def _obey(self, client: Client, message: Json) -> None:
        self.asked.append((client, message))

    def turn(self) -> None:
        """See to whatever has happened."""
        for fd, event in self.poll.poll(0):
            self.clients.happened(fd, event)

    def ask(self) -> Client:
        """Let the node ask something, and return who it is to the shepherd."""
        self.far.send(b'{"n":1}\n')
        self.turn()
        return self.asked[-1][0]

    def close(self) -> None:
        """Give everything back."""
        for one in [client.connection for client in self.clients._all.values()]:
            one.close()
        self.far.close()
        self.listener.close()
        self.poll.close()


def heard(far: socket.socket) -> list[Json]:
    """Return what has come to a node."""
    try:
        return [json.loads(line) for line in far.recv(1 << 20).splitlines()]
    except BlockingIOError:
        return []


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    """A node that is connected."""
    made = Line(tmp_path / "s")
    yield made
    made.close()


def test_news_that_somebody_waits_for_is_told_at_once(line: Line) -> None:
    """With all that was kept before it, in order."""
    line.clients.tell({"name": "a"}, soon=False)
    assert heard(line.far) == []
    assert line.clients.due

    line.clients.tell({"name": "b"})

    assert [one["run"]["name"] for one in heard(line.far)] == ["a", "b"]
    assert not line.clients.due


def test_news_is_kept_for_a_moment_only(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop is told when it has to go out; more news does not put that off."""
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    line.clients.tell({"name": "a"}, soon=False)
    monkeypatch.setattr("time.monotonic", lambda: 100.0015)
    line.clients.tell({"name": "b"}, soon=False)
    assert line.clients.due == 100.0 + KEPT

    line.clients.tell_kept()

    assert [one["run"]["name"] for one in heard(line.far)] == ["a", "b"]


def test_much_news_does_not_wait(line: Line) -> None:
    """A node has to hear of ends to hand over what follows."""
    for number in range(TOGETHER):
        line.clients.tell({"name": str(number)}, soon=False)

    assert len(heard(line.far)) == TOGETHER


def test_an_answer_comes_after_the_news_before_it(line: Line, tmp_path: Path) -> None:
    """Whoever is told that a run was removed has heard of its end; so have the others."""
    other = line.connect(tmp_path / "s")
    client = line.ask()
    line.clients.tell({"name": "a"}, soon=False)

    line.clients.send(client, {"n": 1})

    assert [one["n"] for one in heard(line.far)] == [0, 1]
    assert [one["n"] for one in heard(other)] == [0]
    other.close()


def test_a_node_that_does_not_read_holds_nobody_up(line: Line, tmp_path: Path) -> None:
    """What its socket does not take goes out once it reads again."""
    other = line.connect(tmp_path / "s")
    text = "x" * 100_000
    for _ in range(8):
        line.clients.tell({"name": text})
        heard(other)
    assert select.EPOLLOUT in [client.more for client in line.clients._all.values()]

    read = b""
    for _ in range(40):
        line.turn()
        try:
            read += line.far.recv(1 << 20)
        except BlockingIOError:
            continue

    assert [len(json.loads(one)["run"]["name"]) for one in read.splitlines()] == [100_000] * 8
    assert [client.more for client in line.clients._all.values()] == [0, 0]
    other.close()


def test_a_node_that_has_left_is_forgotten(line: Line) -> None:
    """Its answer goes nowhere."""
    client = line.ask()
    line.far.close()
    line.turn()

    assert not line.clients
    line.clients.send(client, {"n": 1})
    line.clients.tell({"name": "a"})


def test_a_node_waits_while_no_descriptor_is_free(line: Line, tmp_path: Path) -> None:
    """Whoever connects then is seen to once a run has ended; the shepherd goes on."""
    with open("/dev/null", "rb") as highest:  # noqa: PTH123 - for its number
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.socket(socket.AF_UNIX) as late:
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest.fileno() + 2, limits[1]))
            try:
                late.connect(str(tmp_path / "s"))
                line.turn()
                refused = len(line.clients._all)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            line.turn()

            assert (refused, len(line.clients._all)) == (1, 2)
