"""The nodes that are connected to the shepherd. Standard library only."""

import errno
import json
import select
import socket
import time
from collections.abc import Callable

from scalebox_actors.runtimes.shepherd_journal import Json, line_of
from scalebox_actors.runtimes.shepherd_program import LOOK_AGAIN

CLIENT_BACKLOG = 16 * 1024 * 1024
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, RecursionError)
"""What comes out of a question that is none of a node's."""
RECEIVED_AT_ONCE = 64 * 1024
"""More would be mapped and unmapped by the allocator for every question."""

KEPT = 0.002
"""Seconds for which news that nobody waits for is kept, to be told with others: a node that is
woken for each of many short runs does little else."""
TOGETHER = 4
"""So much news is told at once."""


class Client:
    """One connection, with what was read of it in part and what it has not taken yet."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.unread, self.unsent = bytearray(), bytearray()
        self.more = 0
        """What is waited for besides something to read."""

    def flush(self) -> None:
        """Send what the socket takes; raises OSError when the client is gone or asleep."""
        while self.unsent:
            try:
                del self.unsent[: self.connection.send(self.unsent)]
            except BlockingIOError:
                break
        if len(self.unsent) > CLIENT_BACKLOG:
            raise OSError(errno.EPIPE, "the client does not read")


class Clients:
    """All connections: who asks is answered, and everybody hears the news."""

    def __init__(
        self, listener: socket.socket, poll: select.epoll, obey: Callable[[Client, Json], None]
    ) -> None:
        self._listener, self._poll, self._obey = listener, poll, obey
        self._all: dict[int, Client] = {}
        self._news: list[Json] = []
        self.due = 0.0
        """When what was kept has to be told; 0 while there is nothing."""
        poll.register(listener, select.EPOLLIN)

    def __bool__(self) -> bool:
        return bool(self._all)

    def happened(self, fd: int, event: int) -> None:
        """See to a descriptor, if it is one of ours."""
        if fd == self._listener.fileno():
            try:
                connection, _ = self._listener.accept()
            except OSError:  # no descriptor is left: it waits until a run has ended
                time.sleep(LOOK_AGAIN)
                return
            connection.setblocking(False)
            self._all[connection.fileno()] = Client(connection)
            self._poll.register(connection, select.EPOLLIN)
        elif fd in self._all:
            self._serve(self._all[fd], event)

    def tell(self, news: Json, *, soon: bool = True) -> None:
        """Let everybody know: `soon` now, with all that was kept, else a moment later."""
        self._news.append({"n": 0, "run": news})
        if soon or len(self._news) >= TOGETHER:
            self.tell_kept()
        elif not self.due:
            self.due = time.monotonic() + KEPT

    def tell_kept(self, last: Client | None = None) -> None:
        """Let everybody know what was kept; `last` is sent something more in the same piece."""
        news, self._news, self.due = b"".join(map(line_of, self._news)), [], 0.0
        for client in list(self._all.values()):
            client.unsent += news
            if client is not last:
                self._flush(client)

    def send(self, client: Client, message: Json) -> None:
        """Send a message, after the news that there was before it."""
        if client.connection.fileno() not in self._all:
            return  # it left before its answer was ready
        if self._news:
            self.tell_kept(client)
        client.unsent += line_of(message)
        self._flush(client)

    def _flush(self, client: Client) -> None:
        try:
            client.flush()
        except OSError:
            self._drop(client)
            return
        more = select.EPOLLOUT if client.unsent else 0
        if more != client.more:
            client.more = more
            self._poll.modify(client.connection, select.EPOLLIN | more)

    def _serve(self, client: Client, event: int) -> None:
        try:
            if event & select.EPOLLOUT:
                self._flush(client)
            if event & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                data = client.connection.recv(RECEIVED_AT_ONCE)
                if not data:
                    self._drop(client)
                client.unread += data
                while (end := client.unread.find(b"\n")) >= 0:
                    line = bytes(client.unread[:end])
                    del client.unread[: end + 1]
                    self._obey(client, json.loads(line))
        except BlockingIOError:
            return
        except (OSError, *MALFORMED):  # what is no question, or has no number to be answered to
            self._drop(client)

    def _drop(self, client: Client) -> None:
        fd = client.connection.fileno()
        if self._all.pop(fd, None) is not None:
            self._poll.unregister(fd)
            client.connection.close()
