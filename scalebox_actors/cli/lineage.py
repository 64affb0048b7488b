"""Run records as trees of lineage: who came from whom. Pure."""

from collections.abc import Iterable, Iterator

import msgspec

from scalebox_actors.cli.show import duration, shortened, size
from scalebox_actors.errors import UNREADABLE
from scalebox_actors.records import RunRecord

BODY_SHOWN = 48


class Twig(msgspec.Struct, kw_only=True):
    """A task: its runs in order, and the tasks that it sent."""

    runs: list[RunRecord]
    children: "list[Twig]" = []

    @property
    def last(self) -> RunRecord:
        """The run that decided."""
        return self.runs[-1]


def lines_of(message: bytes) -> Iterator[RunRecord]:
    """Yield the run records in a message of the trace stream; lines of other versions are left."""
    for line in message.split(b"\n"):
        try:
            yield msgspec.json.decode(line, type=RunRecord)
        except UNREADABLE:
            continue


def trees(records: Iterable[RunRecord]) -> list[Twig]:
    """Return the tasks whose parents are not known, with all that came from them below them."""
    twigs: dict[tuple[str, str], Twig] = {}
    for record in sorted(records, key=lambda r: (r.created, r.started, r.attempt)):
        key = (record.module, record.id)
        if key in twigs:
            twigs[key].runs.append(record)
        else:
            twigs[key] = Twig(runs=[record])
    by_id: dict[str, Twig] = {}
    for twig in twigs.values():
        by_id.setdefault(twig.last.id, twig)
    tops = []
    for twig in twigs.values():
        parent = by_id.get(twig.last.parent)
        if parent is None or _is_below(parent, twig, by_id):
            tops.append(twig)
        else:
            parent.children.append(twig)
    return tops


def drawn(top: Twig) -> Iterator[str]:
    """Yield the lines of one tree; iterative, since a lineage may be very deep."""
    stack: list[tuple[Twig, str, str]] = [(top, "", "")]
    while stack:
        twig, first, rest = stack.pop()
        yield first + told(twig)
        last = len(twig.children) - 1
        for place in range(last, -1, -1):
            end = place == last
            branch, below = ("└─ ", "   ") if end else ("├─ ", "│  ")
            stack.append((twig.children[place], rest + branch, rest + below))


def told(twig: Twig) -> str:
    """Return one task on one line: module, id, how it ended, how long it took and where."""
    record = twig.last
    parts = [record.module, record.id, _ending(record)]
    if len(twig.runs) > 1 or record.attempt > 1:
        parts.append(f"run {record.attempt}")
    if record.finished > record.started > 0:
        parts.append(duration(record.finished - record.started))
    if record.usage.cpu_seconds is not None:
        parts.append(f"cpu {duration(record.usage.cpu_seconds)}")
    if record.usage.memory_peak is not None:
        parts.append(size(record.usage.memory_peak))
    if record.usage.io_read_bytes or record.usage.io_write_bytes:
        read, written = record.usage.io_read_bytes or 0, record.usage.io_write_bytes or 0
        parts.append(f"read {size(read)}, wrote {size(written)}")
    parts += [f"@{record.node}", f'"{shortened(record.body, BODY_SHOWN)}"']
    return "  ".join(parts)


def _ending(record: RunRecord) -> str:
    word = record.verdict or "?"
    if word == "done":
        return word
    why = f"exit {record.exit_code}" if record.cause == "exit" else record.cause
    return f"{word} ({why})" if not record.detail else f"{word} ({why}: {record.detail[:80]})"


def _is_below(start: Twig, sought: Twig, by_id: dict[str, Twig]) -> bool:
    """Whether following parents from `start` comes to `sought`: somebody forged a circle."""
    seen = set()
    twig: Twig | None = start
    while twig is not None and id(twig) not in seen:
        if twig is sought:
            return True
        seen.add(id(twig))
        twig = by_id.get(twig.last.parent)
    return False
