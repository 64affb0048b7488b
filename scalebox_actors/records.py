"""What is written down about a task: its outcome, its attempts, its end."""

from enum import StrEnum

import msgspec

from scalebox_actors.contract import Cut, Emission

UNUSABLE, ORPHAN, TIMED_OUT = 120, 123, 124
"""Exit codes that we give and no program has to: bad output, lost run, ended at its timeout."""


class Cause(StrEnum):
    """Why a run ended as it did; the name that people see."""

    EXIT = "exit"
    TIMEOUT = "timeout"
    MEMORY = "oom"
    BAD_OUTPUT = "bad_output"
    BAD_MESSAGE = "bad_message"
    """The message cannot be handed to the program: too long for an argument, not text."""
    NOT_STARTED = "not_started"
    """The engine could not start the program: command not found, not executable."""
    LOST = "lost"
    """The container vanished or was ended from outside; no fault of the task."""


class Ended(StrEnum):
    """How a task ended for good; the word in its done-record."""

    DONE = "done"
    DEAD = "dead"
    CANCELLED = "cancelled"


class Usage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a run used: CPU seconds, peak bytes of memory, bytes from and to disks."""

    cpu_seconds: float | None = None
    memory_peak: int | None = None
    io_read_bytes: int | None = None
    io_write_bytes: int | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What happened in one run; times in seconds since the epoch."""

    exit_code: int
    cause: Cause = Cause.EXIT
    detail: str = ""
    """One sentence for people, when the exit code alone does not tell."""
    started: float = 0.0
    finished: float = 0.0
    emissions: tuple[Emission, ...] = ()
    stdout: Cut = Cut()
    stderr: Cut = Cut()
    auxout: Cut = Cut()
    extras: dict[str, object] = {}
    removed: tuple[str, ...] = ()
    usage: Usage = Usage()

    @property
    def output_bytes(self) -> int:
        """The bytes of all that the run sends on."""
        return sum([len(emission.body) for emission in self.emissions])


def spoilt(outcome: Outcome, why: Exception) -> Outcome:
    """Return the outcome of a run that ended well, but whose outputs cannot be used."""
    return msgspec.structs.replace(
        outcome, exit_code=UNUSABLE, cause=Cause.BAD_OUTPUT, detail=str(why)
    )


POISON = Outcome(
    exit_code=ORPHAN, cause=Cause.LOST, detail="started again and again without an end"
)
"""What is judged of a task that was started too often without a verdict."""


class Attempts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What went wrong with a task so far; kept only for tasks that did not end at once."""

    failures: dict[str, int] = {}
    """Exit code to the number of runs that ended with it."""
    starts: int = 0
    """Starts since the last verdict, not counting the very first."""
    last: str = ""

    @property
    def failed(self) -> int:
        """All failing runs together."""
        return sum(self.failures.values())

    @property
    def number(self) -> int:
        """The number of the run that comes next; the first is 1."""
        return self.failed + 1

    def with_start(self) -> "Attempts":
        """Count a start that is about to happen."""
        return msgspec.structs.replace(self, starts=self.starts + 1)

    def with_failure(self, outcome: Outcome) -> "Attempts":
        """Count a failing run; a verdict was reached, so starts count from 0 again."""
        code = str(outcome.exit_code)
        failures = self.failures | {code: self.failures.get(code, 0) + 1}
        return Attempts(failures=failures, starts=0, last=outcome.detail)


class Settled(StrEnum):
    """What became of a task that was handed in for commit."""

    COMMITTED = "committed"
    ALREADY = "already"
    """Somebody, perhaps we ourselves before a lost answer, has committed it: ack and clean up."""
    LATE = "late"
    """A member whose group was already let go; nothing was stored."""
    UNACCEPTABLE = "unacceptable"
    """The broker refuses what the task wants to store; nothing was stored."""


class Settlement(msgspec.Struct, frozen=True):
    """The answer to a commit, and for a refusal the reason."""

    kind: Settled
    text: str = ""


class DoneRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """That a task has ended, and how: one small JSON object that fences every later run."""

    ended: Ended
    node: str = ""
    started: float = 0.0
    finished: float = 0.0
    exit_code: int = 0
    outputs: int = 0
    reason: str = ""
    place: int = 0
    """Where in the stream the message lay, if it came from another site: a second copy of it
    lies elsewhere."""


class RunRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What insight knows of one run; a line of JSON in the trace stream."""

    module: str
    id: str
    attempt: int = 1
    parent: str = ""
    root: str = ""
    hop: int = 0
    node: str = ""
    verdict: str = ""
    cause: str = Cause.EXIT.value
    detail: str = ""
    exit_code: int = 0
    created: float = 0.0
    """When the message was stored, by the server's clock (t0)."""
    started: float = 0.0
    finished: float = 0.0
    committed: float = 0.0
    body: str = ""
    """The beginning of the body, at most 256 characters."""
    body_bytes: int = 0
    outputs: int = 0
    input_bytes: int = 0
    output_bytes: int = 0
    stdout: str = ""
    stderr: str = ""
    auxout: str = ""
    cut: bool = False
    extras: dict[str, object] = {}
    usage: Usage = Usage()
