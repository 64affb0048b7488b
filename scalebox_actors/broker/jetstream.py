"""The broker over JetStream: the adapter's parts behind the port that the engine knows."""

import asyncio
from collections.abc import Sequence
from itertools import chain
from typing import Self

from scalebox_actors.broker.ahead import Ahead
from scalebox_actors.broker.answering import answer_on
from scalebox_actors.broker.commit import Injected, Writer
from scalebox_actors.broker.forward import Forwarder
from scalebox_actors.broker.link import Link
from scalebox_actors.broker.pull import PullIntake
from scalebox_actors.broker.state import Reader
from scalebox_actors.broker.streams import (
    consumer_config,
    count_subjects,
    courier_config,
    messages_on,
    stream_info,
)
from scalebox_actors.broker.wire import STATUS_NO_RESPONDERS
from scalebox_actors.crossing import Passage
from scalebox_actors.errors import BadMessage, Unavailable
from scalebox_actors.limits import HEADER_BLOCK_BYTES, MESSAGES_AHEAD
from scalebox_actors.names import Names
from scalebox_actors.ports import Answer, Backlog, Entry, Intake, Refusal, Stored


class JetStreamBroker:
    """The stream of one topology at one site, over a link; see the port."""

    def __init__(self, link: Link, names: Names, stream_created: str) -> None:
        self.link = link
        self.names = names
        self._created = stream_created
        self._writer = Writer(link, names)
        self._reader = Reader(link, names)
        self._forwarder = Forwarder(link)

    @classmethod
    async def open(cls, link: Link, names: Names) -> Self:
        """Return the broker of a topology whose streams are there; raises Unavailable if not."""
        info = await stream_info(link, names.stream)
        if info is None:
            raise Unavailable(f"topology {names.topology!r} has no stream at site {names.site!r}")
        return cls(link, names, info.created)

    @property
    def body_limit(self) -> int:
        """The largest body: the server's max_payload less 16 KiB."""
        return self.link.max_payload - HEADER_BLOCK_BYTES

    @property
    def stream_created(self) -> str:
        """When the stream was made: what ids of messages without one are derived from."""
        return self._created

    def intake(self, module: str) -> Intake:
        """Return the deliveries of `module`; use as an async context manager."""
        config = consumer_config(self.names, module)
        intake = PullIntake(self.link, self.names, config, self._created)
        intake.ahead = Ahead(MESSAGES_AHEAD)
        return intake

    def intake_to(self, site: str) -> Intake:
        """Return what waits here to be carried to another site."""
        config = courier_config(self.names, site)
        return PullIntake(self.link, self.names, config, self._created)

    async def forward(self, entries: Sequence[Entry], *, seconds: float) -> Sequence[Passage]:
        """Store entries in another site's stream, and say of each what became of it."""
        return await self._forwarder.forward(entries, seconds=seconds)

    async def write(self, entries: Sequence[Entry], *, soon: bool = True) -> Refusal | None:
        """Store all entries or none, in their order; None means stored and synced to disk."""
        return await self._writer.write(entries, soon=soon)

    async def inject(self, entries: Sequence[Entry]) -> Injected:
        """Store entries in batches, leaving out those that are stored already or not taken."""
        return await self._writer.inject(entries)

    async def duplicates(self, entries: Sequence[Entry]) -> set[int]:
        """Return the places of those entries whose ids are in the de-duplication window."""
        return await self._writer.duplicates(entries)

    async def read(self, subject: str) -> Stored | None:
        """Return the last message on `subject`, which may not have wildcards."""
        return await self._reader.last(self.names.stream, subject)

    async def read_all(self, pattern: str, *, start: int = 1, most: int = 10_000) -> list[Stored]:
        """Return messages on subjects that match `pattern`, oldest first, from a sequence on."""
        pages = self._reader.pages(self.names.stream, pattern, start=start, most=most)
        return list(chain.from_iterable([page async for page in pages]))

    async def purge(self, pattern: str, *, keep: int = 0) -> None:
        """Remove the messages on matching subjects but the `keep` newest of each subject."""
        await self._reader.purge(pattern, keep=keep)

    async def get_state(self, key: str) -> bytes | None:
        """Return the value of a key of the topology's state bucket."""
        return await self._reader.value(self.names.bucket, key)

    async def put_state(self, key: str, value: bytes, *, life: float = 0.0) -> None:
        """Set a key of the state bucket; it is forgotten after `life` seconds unless 0."""
        await self._reader.put(self.names.bucket, key, value, life=life)

    async def backlog(self, module: str) -> Backlog:
        """Return how much waits for `module`."""
        return await self._reader.backlog(self.names.consumer(module))

    async def waiting_to(self, site: str) -> int:
        """Return how many messages are here to be carried to another site."""
        pattern = self.names.out(site, ">")
        return messages_on(await count_subjects(self.link, self.names.stream, pattern))

    async def state_keys(self, prefix: str) -> Sequence[str]:
        """Return the keys of the state bucket that begin with `prefix` and a dot."""
        start = self.names.state("")
        counts = await count_subjects(
            self.link, f"KV_{self.names.bucket}", self.names.state(f"{prefix}.>")
        )
        return [subject.removeprefix(start) for subject in counts]

    async def trace(self, node: str, lines: bytes) -> None:
        """Write run records to the trace stream, without waiting for an answer."""
        try:
            self.link.publish(self.names.trace(node), lines)
        except BadMessage as error:
            self.link.events("trace_lost", str(error))

    async def clock(self) -> float:
        """Return the server's time."""
        return await self._reader.clock()

    async def serve(self, verb: str, answer: Answer) -> None:
        """Answer requests on `ctl.<verb>` until the connection ends."""
        await answer_on(self.link, self.names.ctl(verb), answer)

    async def ask(self, verb: str, question: bytes, *, wait: float = 1.0) -> list[bytes]:
        """Ask every node on `ctl.<verb>` and return what came within `wait` seconds."""
        replies = await self.link.collect(self.names.ctl(verb), question, seconds=wait, ends=False)
        return [reply.body for reply in replies if reply.status != STATUS_NO_RESPONDERS]

    async def close(self) -> None:
        """End the connection."""
        await asyncio.shield(self.link.close())
