"""A client that says whatever it is told to: real client libraries will not send hostile bytes."""

import asyncio
import json
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit


class RawNats:
    """One connection, one line of protocol at a time."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url)
        self._acks = 0

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(
            self._address.hostname, self._address.port
        )
        await self._reader.readline()  # INFO
        options = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True}
        self._writer.write(b"CONNECT %s\r\nSUB acks.> 1\r\n" % json.dumps(options).encode())
        await self.ping()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def ping(self) -> None:
        """Wait until the server has seen everything that was sent."""
        self._writer.write(b"PING\r\n")
        while (line := await self._reader.readline()) != b"PONG\r\n":
            if not line or line.startswith(b"-ERR"):
                raise ConnectionError(line)

    async def store(
        self, subject: str, body: bytes, block: bytes | None = None
    ) -> dict[str, object]:
        """Publish with any header block and return JetStream's answer, `{}` for nobody there.

        A half surrogate in the subject is the one byte that stands for it.
        """
        self._acks += 1
        head = f"PUB {subject} acks.{self._acks} {len(body)}"
        if block is not None:
            sizes = f"{len(block)} {len(block) + len(body)}"
            head = f"HPUB {subject} acks.{self._acks} {sizes}"
        self._writer.write(
            head.encode("utf-8", "surrogateescape") + b"\r\n" + (block or b"") + body + b"\r\n"
        )
        while True:
            line = (await self._reader.readline()).split()
            if line[:1] in ([b"MSG"], [b"HMSG"]):
                payload = await self._reader.readexactly(int(line[-1]) + 2)
                answer = payload[int(line[-2]) :] if line[0] == b"HMSG" else payload
                return dict(json.loads(answer)) if answer.strip() else {}
            if not line or line[0] == b"-ERR":
                raise ConnectionError(line)
