"""What the engine's answers mean: one table, read from top to bottom.

Status *and* text decide: dockerd, podman, runc and crun answer the same mishap in different ways
(a taken name is 409 or 500, a command that is not there 400 or 500).
"""

from enum import StrEnum

import msgspec

LOST_CONNECTION = 900
"""The status that stands for no answer at all."""


class Step(StrEnum):
    """What the engine was asked to do."""

    CREATE = "create"
    START = "start"
    RENAME = "rename"
    OTHER = "other"


class Kind(StrEnum):
    """What an answer that is no success means to us."""

    TRANSIENT = "transient"
    """Ask again later."""
    IMAGE_MISSING = "image_missing"
    NAME_TAKEN = "name_taken"
    GONE = "gone"
    """There is no such container or image."""
    NOT_FOUND = "not_found"
    """The program is not in the image; the shell's 127."""
    NOT_EXECUTABLE = "not_executable"
    """The program cannot be executed as this user; the shell's 126."""
    HALF_STARTED = "half_started"
    """The engine died while it started this container, and has forgotten how far it came."""
    NO_LOGS = "no_logs"
    REJECTED = "rejected"
    """The engine will never make this container."""


class Answer(msgspec.Struct, frozen=True):
    """An answer that is no success, and its text for people."""

    kind: Kind
    text: str


NOT_STARTED = {Kind.NOT_FOUND: 127, Kind.NOT_EXECUTABLE: 126}

ANY = frozenset(range(400, LOST_CONNECTION + 1))
BAD = frozenset((400, 500))
# step (None: any), statuses, a piece of the lower-case text, what it means
ANSWERS: tuple[tuple[Step | None, frozenset[int], str, Kind], ...] = (
    (None, frozenset((LOST_CONNECTION,)), "", Kind.TRANSIENT),
    (None, ANY, "no space left", Kind.TRANSIENT),
    (None, ANY, "resource temporarily unavailable", Kind.TRANSIENT),
    (None, ANY, "cannot allocate memory", Kind.TRANSIENT),
    (None, ANY, "too many open files", Kind.TRANSIENT),
    (None, ANY, "already in progress", Kind.TRANSIENT),
    (Step.CREATE, ANY, "no such image", Kind.IMAGE_MISSING),
    (Step.CREATE, ANY, "image not known", Kind.IMAGE_MISSING),
    (Step.CREATE, frozenset((409, 500)), "already in use", Kind.NAME_TAKEN),
    (Step.CREATE, frozenset((409,)), "", Kind.NAME_TAKEN),
    (Step.CREATE, BAD, "json:", Kind.REJECTED),
    (Step.CREATE, BAD, "cannot mkdir", Kind.REJECTED),
    (Step.RENAME, ANY, "in use", Kind.NAME_TAKEN),
    (Step.RENAME, ANY, "same name", Kind.NAME_TAKEN),
    (Step.RENAME, frozenset((409,)), "", Kind.NAME_TAKEN),
    (Step.START, ANY, "already exists", Kind.HALF_STARTED),
    (Step.START, ANY, "id already in use", Kind.HALF_STARTED),
    (Step.START, ANY, "network", Kind.REJECTED),
    (Step.START, BAD, "logging driver", Kind.REJECTED),
    (Step.START, BAD, "device", Kind.REJECTED),
    (Step.START, BAD, "bind source path", Kind.REJECTED),
    (Step.START, BAD, "unable to find user", Kind.NOT_EXECUTABLE),
    (Step.START, BAD, "permission denied", Kind.NOT_EXECUTABLE),
    (Step.START, BAD, "operation not permitted", Kind.NOT_EXECUTABLE),
    (Step.START, BAD, "exec format error", Kind.NOT_EXECUTABLE),
    (Step.START, BAD, "is a directory", Kind.NOT_EXECUTABLE),
    (Step.START, BAD, "executable file", Kind.NOT_FOUND),
    (Step.START, BAD, "no such file or directory", Kind.NOT_FOUND),
    (Step.START, frozenset((400,)), "", Kind.NOT_EXECUTABLE),
    (None, frozenset((404,)), "", Kind.GONE),
    (None, frozenset((501,)), "", Kind.NO_LOGS),
    (None, frozenset(range(500, 600)), "", Kind.TRANSIENT),
)


def read_answer(step: Step, status: int, text: str) -> Answer:
    """Return what an answer means; whatever the table does not know is a refusal."""
    lower = text.lower()
    for asked, statuses, piece, kind in ANSWERS:
        if asked in (None, step) and status in statuses and piece in lower:
            return Answer(kind, text)
    return Answer(Kind.REJECTED, text)
