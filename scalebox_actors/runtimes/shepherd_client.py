"""A node that is connected to the shepherd. Standard library only."""

import errno
import socket

CLIENT_BACKLOG = 16 * 1024 * 1024


class Client:
    """One connection, with what was read of it in part and what it has not taken yet."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.unread, self.unsent = bytearray(), bytearray()

    def flush(self) -> None:
        """Send what the socket takes; raises OSError when the client is gone or asleep."""
        while self.unsent:
            try:
                del self.unsent[: self.connection.send(self.unsent)]
            except BlockingIOError:
                break
        if len(self.unsent) > CLIENT_BACKLOG:
            raise OSError(errno.EPIPE, "the client does not read")
