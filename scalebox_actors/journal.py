"""What a node remembers of its runs: counts for people who watch, records for the trace.

Insight may be lost, work may not: records are kept in memory, bounded, and go to the trace
stream several to a message.
"""

from collections.abc import Callable

import msgspec

from scalebox_actors.limits import KIB
from scalebox_actors.ports import Broker
from scalebox_actors.records import RunRecord

MESSAGE_BYTES = 256 * KIB
BUFFER_BYTES = 16 * MESSAGE_BYTES
LINE_BYTES = 768 * KIB
"""A record that takes more is cut: a message over the server's limit would be lost altogether."""
_TEXT_CHARACTERS = LINE_BYTES // 20
"""Of each of the three texts of a record that is cut; JSON makes up to six bytes of a character."""

_encode = msgspec.json.Encoder().encode


class Counts(msgspec.Struct, kw_only=True):
    """What became of a module's runs on this node since it started."""

    running: int = 0
    done: int = 0
    retried: int = 0
    dead: int = 0
    repeated: int = 0
    """Deliveries of tasks that had ended already."""
    busy_seconds: float = 0.0

    def count(self, word: str, seconds: float) -> None:
        """Count one run that took `seconds` and ended as `word` says."""
        self.busy_seconds += max(0.0, seconds)
        match word:
            case "done":
                self.done += 1
            case "retry":
                self.retried += 1
            case "repeated":
                self.repeated += 1
            case _:
                self.dead += 1


class Journal:
    """Counts runs and keeps their records until they are flushed."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.counts: dict[str, Counts] = {}
        self.forgotten = 0
        """Records dropped because the trace could not be written fast enough."""
        self.watch: Callable[[RunRecord], None] | None = None
        self._lines: list[bytes] = []
        self._size = 0

    def of(self, module: str) -> Counts:
        """Return the counts of `module`."""
        counts = self.counts.get(module)
        if counts is None:
            counts = self.counts[module] = Counts()
        return counts

    def add(self, record: RunRecord) -> None:
        """Keep the record of one run."""
        if self.watch is not None:
            self.watch(record)
        record.node = self.node
        line = _line(record)
        if self._size + len(line) > BUFFER_BYTES:
            self.forgotten += 1
            return
        self._lines.append(line)
        self._size += len(line)

    async def flush(self, broker: Broker) -> None:
        """Write what was added to the trace stream, in messages of bounded size."""
        lines, self._lines, self._size = self._lines, [], 0
        batch: list[bytes] = []
        size = 0
        for line in lines:
            if batch and size + len(line) > MESSAGE_BYTES:
                await broker.trace(self.node, b"\n".join(batch))
                batch, size = [], 0
            batch.append(line)
            size += len(line) + 1
        if batch:
            await broker.trace(self.node, b"\n".join(batch))


def _line(record: RunRecord) -> bytes:
    """Return a record as a line that fits a message; of texts that do not, the ends are kept."""
    line = _encode(record)
    if len(line) <= LINE_BYTES:
        return line
    ends = {
        name: getattr(record, name)[-_TEXT_CHARACTERS:] for name in ("stdout", "stderr", "auxout")
    }
    return _encode(msgspec.structs.replace(record, cut=True, **ends))
