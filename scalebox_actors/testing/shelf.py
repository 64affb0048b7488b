"""What a `MemoryBroker` holds: messages with their lives, ids within the window, refusals."""

import re
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from scalebox_actors.limits import BATCH_BYTES, BATCH_MESSAGES, MIB
from scalebox_actors.message import MSG_ID, MSG_TTL
from scalebox_actors.names import Names
from scalebox_actors.ports import Entry, Refusal, Refused, Stored

WINDOW = 30.0
"""How long an id is remembered."""
NEVER = float("inf")
_SUBJECT = re.compile(r"[^\s.*>]+(\.[^\s.*>]+)*")


class Held(msgspec.Struct, eq=False):
    """A message of the stream, and for a task who has it."""

    stored: Stored
    fault: str
    expires: float
    deliveries: int = 0
    owner: object = None
    ready_at: float = 0.0
    """From when on it may be handed out (again); while somebody works on it, never."""


class Shelf:
    """The messages of one stream, by sequence; `now` is the only time there is."""

    def __init__(self, names: Names, modules: Sequence[str], max_payload: int) -> None:
        self.now = 1_000_000_000.0
        self.held: dict[int, Held] = {}
        self.ids: dict[str, float] = {}
        self._sequence = 0
        self._names = names
        self._modules = tuple(modules)
        self._max_payload = max_payload

    def messages(self, pattern: str = ">") -> list[Stored]:
        """Return the messages on subjects that match `pattern`, oldest first."""
        return [held.stored for held in self.alive() if matches(pattern, held.stored.subject)]

    def alive(self) -> Iterator[Held]:
        """Return what is held and whose life has not ended, oldest first."""
        return (held for held in list(self.held.values()) if held.expires > self.now)

    def last(self, subject: str) -> Stored | None:
        """Return the last message on a subject."""
        return next(iter(reversed(self.messages(subject))), None)

    def remembered(self) -> set[str]:
        """Return the ids within the window."""
        return {given for given, when in self.ids.items() if when + WINDOW > self.now}

    def store(self, subject: str, body: bytes, headers: Mapping[str, str], fault: str = "") -> int:
        """Store a message and return its sequence."""
        self._sequence += 1
        kept = dict(headers)
        stored = Stored(
            subject=subject, body=body, headers=kept, sequence=self._sequence, time=self.now
        )
        life = headers.get(MSG_TTL)
        expires = self.now + float(life.removesuffix("s")) if life else NEVER
        self.held[self._sequence] = Held(stored, fault, expires)
        if MSG_ID in headers:
            self.ids[headers[MSG_ID]] = self.now
        return self._sequence

    def refusal(self, entries: Sequence[Entry]) -> Refusal | None:
        """Return why a batch cannot be stored; members are looked at in their order."""
        unfit = self._unfit(entries)
        if unfit:
            return Refusal(Refused.UNACCEPTABLE, unfit)
        ids = self.remembered()
        subjects: set[str] = set()
        for entry in entries:
            given = entry.headers.get(MSG_ID)
            if given is not None and given in ids:
                return Refusal(Refused.DUPLICATE, f"id {given} is there")
            if given is not None:
                ids.add(given)
            if entry.expect is not None:
                last = self.last(entry.subject)
                if entry.subject in subjects or entry.expect != (last.sequence if last else 0):
                    return Refusal(Refused.CONFLICT, f"{entry.subject} is not as expected")
            subjects.add(entry.subject)
        return None

    def _unfit(self, entries: Sequence[Entry]) -> str:
        if len(entries) > BATCH_MESSAGES or sum(e.size for e in entries) > BATCH_BYTES + MIB:
            return "more than fits a batch"
        for entry in entries:
            if not self._has(entry.subject):
                return f"{entry.subject} is not a subject of the stream"
            if len(entry.body) + sum(map(len, entry.headers.values())) > self._max_payload:
                return f"{entry.subject}: too large"
            if not all(v.isascii() and v.isprintable() for v in entry.headers.values()):
                return f"{entry.subject}: a header has characters that are not printable ASCII"
        return ""

    def _has(self, subject: str) -> bool:
        prefix = self._names.prefix
        kinds = (f"{prefix}.{kind}." for kind in ("done", "dead", "join", "result", "out"))
        tasks = map(self._names.task, self._modules)
        within = subject in tasks or subject.startswith(tuple(kinds))
        return within and _SUBJECT.fullmatch(subject) is not None


def matches(pattern: str, subject: str) -> bool:
    """Whether a subject lies within a pattern with the wildcards `*` and `>`."""
    wanted, given = pattern.split("."), subject.split(".")
    if wanted[-1] == ">" and len(given) >= len(wanted):
        wanted, given = wanted[:-1], given[: len(wanted) - 1]
    pairs = zip(wanted, given, strict=False)
    return len(wanted) == len(given) and all(w in ("*", g) for w, g in pairs)
