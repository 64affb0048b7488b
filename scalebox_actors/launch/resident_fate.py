"""Who is to blame when a resident program ends with messages in it. Pure.

A program that has several messages does not say which of them killed it. So none of them is blamed
for it: each is given to another program alone, and one that kills that as well is the one.
"""

import asyncio
import math
import time
from collections.abc import Sequence
from enum import StrEnum

import msgspec

from scalebox_actors.contract.resident import Answer, Unusable
from scalebox_actors.launch.outcomes import KILLED, outcome_of
from scalebox_actors.limits import RESIDENT_FAULTS
from scalebox_actors.ports import Exit, Logs, Task
from scalebox_actors.records import ORPHAN, TIMED_OUT, UNUSABLE, Cause, Outcome
from scalebox_actors.topology.model import Module

NEVER = math.inf
SHELL = "/bin/sh"
SHOWN = 200
QUIET_ENDS = 2
"""So often a program may end with 0 instead of answering a message that it has alone."""


class Again(msgspec.Struct, frozen=True):
    """Give the message to another program; `alone` if it may have killed this one."""

    alone: bool = False
    quiet: bool = False
    """The program ended with 0: it counts, since a message must not be given for ever."""


Fate = Outcome | Again
Said = Answer | Unusable | Outcome | Again
"""What a message gets: its program's answer, or what became of it without one."""


class Asked:
    """A message on its way through resident programs, until one has answered it."""

    __slots__ = (
        *("alone", "began", "end", "errand", "faults", "given", "heard", "quiet", "repeats"),
        *("stopped", "task"),
    )

    def __init__(self, task: Task, end: "asyncio.Future[Said]") -> None:
        self.task, self.end = task, end
        self.errand = ""
        """The folder with its files, where it needs one."""
        self.alone = False
        """It is given to a program that has nothing else: it may have killed one."""
        self.repeats = 0
        """How often it was given again through no fault of its own."""
        self.quiet = 0
        """How often a program that had it alone ended with 0 and no answer."""
        self.given = self.heard = NEVER
        """When its program got it and was last heard of it, by the loop's clock."""
        self.began = 0.0
        """When it was given, in seconds since the epoch."""
        self.faults = 0
        """How many lines that mean nothing its program wrote while it had it."""
        self.stopped = False
        """A person wants it to end."""

    @property
    def id(self) -> str:
        """The message's id."""
        return self.task.message.id


class Why(StrEnum):
    """Why a program ended, where that was our doing."""

    ITSELF = "itself"
    RETIRED = "retired"
    """It had had its time, or the node ends."""
    TIMEOUT = "timeout"
    """A message had its time."""
    SILENT = "silent"
    """A promised heart-beat did not come."""
    FAULTS = "faults"
    """It wrote what nobody can understand."""
    STOPPED = "stopped"
    """A person ended a run."""


class Ending(msgspec.Struct, frozen=True):
    """That a program is ended, and on whose account."""

    why: Why = Why.ITSELF
    detail: str = ""
    """What people are told of it, where `why` is not enough."""
    culprit: str = ""
    """The id of the message on whose account it is ended."""
    suspects: frozenset[str] = frozenset()
    """Messages whose time is up as well."""


class Death(msgspec.Struct, frozen=True):
    """The end of one life of a program."""

    exit: Exit
    logs: Logs
    ending: Ending = Ending()
    together: int = 0
    """How many messages it still had."""


def fate(module: Module, death: Death, asked: Asked) -> Fate:
    """Return what becomes of a message whose program has ended without answering it."""
    outcome = outcome_of(module, death.exit, death.logs, timed_out=False)
    outcome = msgspec.structs.replace(outcome, started=asked.began)
    if asked.stopped:
        return stopped(asked)
    if asked.given == NEVER:  # its files were being written
        return Again()
    if death.ending.why is Why.ITSELF:
        return _of_itself(outcome, death, asked)
    if asked.id == death.ending.culprit:
        return msgspec.structs.replace(
            outcome, exit_code=TIMED_OUT, cause=Cause.TIMEOUT, detail=death.ending.detail
        )
    if death.ending.why is Why.FAULTS:
        # What is heard after a message was given may be about the one before it.
        if asked.alone and asked.faults >= RESIDENT_FAULTS:
            return _unusable(outcome, death.ending.detail)
        return Again(alone=True)
    return Again(alone=asked.id in death.ending.suspects)


def _of_itself(outcome: Outcome, death: Death, asked: Asked) -> Fate:
    """Return what becomes of a message whose program ended without our doing."""
    if outcome.cause is Cause.LOST:
        return Again()
    if death.together > 1:
        return Again(alone=True)
    if outcome.exit_code == 0 and asked.quiet + 1 < QUIET_ENDS:
        return Again(alone=True, quiet=True)
    if outcome.exit_code == 0:
        return _unusable(outcome, "the program ended with 0 and without an answer")
    return outcome


def stopped(asked: Asked) -> Outcome:
    """Return the outcome of a message whose run a person has ended."""
    now = time.time()
    return Outcome(
        exit_code=KILLED, detail="ended from outside", started=asked.began or now, finished=now
    )


def lost(asked: Asked, detail: str) -> Outcome:
    """Return the outcome of a message that was given to too many programs for nothing."""
    return Outcome(
        exit_code=ORPHAN,
        cause=Cause.LOST,
        detail=detail,
        started=asked.began,
        finished=time.time(),
    )


def not_started(death: Death) -> Outcome:
    """Return the outcome of all messages of a module whose program does not get going."""
    code = death.exit.code
    if death.exit.not_started:
        detail = f"`launch: resident` needs {SHELL} in the image: {death.exit.detail}"
    else:
        words = death.logs.stderr.decode("utf-8", "replace").splitlines()
        last = next((line.strip() for line in reversed(words) if line.strip()), "")
        said = f": {last[:SHOWN]}" if last else ""
        detail = f"the program ends at its start with exit code {code}{said}"
    if death.ending.why is not Why.ITSELF:
        detail = death.ending.detail
    return Outcome(exit_code=code or KILLED, cause=Cause.NOT_STARTED, detail=detail)


def whom_to_blame(late: Sequence[Asked]) -> tuple[str, frozenset[str]]:
    """Return, of messages whose time is up, the id of the oldest and those of the others.

    A program that takes one message after the other hangs in the oldest, and the others only
    waited behind it.
    """
    oldest = min(late, key=lambda asked: asked.given)
    return oldest.id, frozenset(asked.id for asked in late if asked is not oldest)


def _unusable(outcome: Outcome, detail: str) -> Outcome:
    return msgspec.structs.replace(
        outcome, exit_code=UNUSABLE, cause=Cause.BAD_OUTPUT, detail=detail
    )
