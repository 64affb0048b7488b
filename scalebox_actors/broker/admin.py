"""What the commands of an operator need: looking, pausing, taking results, moving messages."""

from collections.abc import AsyncIterator

import msgspec

from scalebox_actors.broker.client import ApiError
from scalebox_actors.broker.link import Link
from scalebox_actors.broker.state import Reader, rfc3339
from scalebox_actors.broker.streams import (
    STREAM_NOT_FOUND,
    TOPOLOGY_KEY,
    count_subjects,
    stream_info,
)
from scalebox_actors.names import Names
from scalebox_actors.ports import Backlog, Stored


class StreamSize(msgspec.Struct, frozen=True, kw_only=True):
    """How full a stream is."""

    name: str
    messages: int
    bytes: int
    max_bytes: int
    first_sequence: int
    last_sequence: int


class Admin:
    """One topology at one site, as an operator sees it."""

    def __init__(self, link: Link, names: Names) -> None:
        self.names = names
        self._link = link
        self._reader = Reader(link, names)

    async def exists(self) -> bool:
        """Whether the topology has a stream on this server."""
        return await stream_info(self._link, self.names.stream) is not None

    async def list_subjects(self, pattern: str) -> dict[str, int]:
        """Return the number of messages on each subject that matches `pattern`."""
        return await count_subjects(self._link, self.names.stream, pattern)

    def messages(
        self, pattern: str, *, start: int = 1, most: int | None = None
    ) -> AsyncIterator[list[Stored]]:
        """Give messages on matching subjects from sequence `start` on, oldest first, in pages."""
        return self._reader.pages(self.names.stream, pattern, start=start, most=most)

    async def take(self, pattern: str, *, most: int | None = None) -> AsyncIterator[list[Stored]]:
        """Give messages like `messages`; a page is removed when the next one is asked for.

        Whoever stops in the middle of a page gets that page again: nothing is removed unseen.
        """
        async for page in self.messages(pattern, most=most):
            yield page
            await self._reader.purge(pattern, before=page[-1].sequence + 1)

    async def delete(self, sequence: int) -> bool:
        """Remove one message of the stream; False if it was not there."""
        request = {"seq": sequence, "no_erase": True}
        try:
            await self._link.api(f"STREAM.MSG.DELETE.{self.names.stream}", request)
        except ApiError as error:
            if error.number == STREAM_NOT_FOUND:
                raise
            return False
        return True

    async def pause(self, module: str, seconds: float) -> float:
        """Hand out no more tasks of a module for so long; returns until when."""
        until = await self._reader.clock() + seconds
        await self._pause(module, {"pause_until": rfc3339(until)})
        return until

    async def resume(self, module: str) -> None:
        """Hand out the tasks of a module again."""
        await self._pause(module, {})

    async def backlog(self, module: str) -> Backlog:
        """Return how much waits for a module."""
        return await self._reader.backlog(self.names.consumer(module))

    def trace_messages(self, *, since: float = 0.0, start: int = 1) -> AsyncIterator[list[Stored]]:
        """Give the trace stream's messages from a time or a sequence on, oldest first."""
        return self._reader.pages(
            self.names.trace_stream, self.names.trace("*"), start=start, since=since
        )

    async def last_sequence(self) -> int:
        """Return the sequence of what was stored last; 0 if there is no stream."""
        info = await stream_info(self._link, self.names.stream)
        return info.state.last_seq if info else 0

    async def sizes(self) -> list[StreamSize]:
        """Return how full the topology's streams are."""
        sizes: list[StreamSize] = []
        for stream in self._streams():
            info = await stream_info(self._link, stream)
            if info is not None:
                state = info.state
                sizes.append(
                    StreamSize(
                        name=stream,
                        messages=state.messages,
                        bytes=state.bytes,
                        max_bytes=info.max_bytes,
                        first_sequence=state.first_seq,
                        last_sequence=state.last_seq,
                    )
                )
        return sizes

    async def read_topology(self) -> bytes | None:
        """Return the topology file that was written last, or None."""
        if await stream_info(self._link, f"KV_{self.names.bucket}") is None:
            return None
        return await self._reader.value(self.names.bucket, TOPOLOGY_KEY)

    async def write_topology(self, text: bytes) -> None:
        """Keep the topology file, so that every command and node at this site finds it."""
        await self._reader.put(self.names.bucket, TOPOLOGY_KEY, text)

    async def purge_topology(self) -> None:
        """Remove the streams of the topology with everything in them; safe to repeat."""
        for stream in self._streams():
            try:
                await self._link.api(f"STREAM.DELETE.{stream}")
            except ApiError as error:
                if error.number != STREAM_NOT_FOUND:
                    raise

    def _streams(self) -> tuple[str, ...]:
        names = self.names
        return names.stream, names.trace_stream, f"KV_{names.bucket}"

    async def _pause(self, module: str, request: object) -> None:
        consumer = self.names.consumer(module)
        await self._link.api(f"CONSUMER.PAUSE.{self.names.stream}.{consumer}", request)


async def topologies(link: Link, site: str) -> list[str]:
    """Return the names of the topologies that have a stream at a site."""
    found: list[str] = []
    seen = 0
    ending = f"_AT_{site}"
    while True:
        answer = await link.api("STREAM.NAMES", {"subject": f"sbx.*.{site}.>", "offset": seen})
        names = answer.get("streams")
        if not isinstance(names, list) or not names:
            return sorted(found)
        seen += len(names)
        found += [n.removeprefix("SBX_").removesuffix(ending) for n in names if n.endswith(ending)]
