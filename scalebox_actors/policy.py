"""Turn what happened into what to do next; pure, total and decided by the rules alone."""

from enum import StrEnum

import msgspec

from scalebox_actors.limits import RETRIES_CEILING, STARTS_PER_TASK
from scalebox_actors.records import Attempts, Cause, Outcome
from scalebox_actors.topology.model import DEFAULT_RETRY, Retry

MEMORY_RETRIES = 1


class Reason(StrEnum):
    """Why a task was buried; the word that people see and search for."""

    EXHAUSTED = "exhausted"
    """Every retry that the rules allow was used."""
    NO_RULE = "no_rule"
    """No rule allows a second run after this exit code."""
    BAD_MESSAGE = "bad_message"
    BAD_OUTPUT = "bad_output"
    OUT_OF_MEMORY = "out_of_memory"
    POISON = "poison"
    """Started again and again without ever coming to an end."""
    LATE = "late"
    """A member that came when its group was already let go."""
    INCOMPLETE = "incomplete"
    """A group that timed out with too few members."""
    REMOVED = "removed"
    """It waited for a module that an operator gave up."""
    REFUSED = "refused"
    """The server or the engine refuses what the task needs."""


class Done(msgspec.Struct, frozen=True):
    """The task is done: commit its outputs."""


class TryAgain(msgspec.Struct, frozen=True):
    """Run it again after `delay` seconds; `counted` says whether the task is to blame."""

    delay: float = 0.0
    counted: bool = True


class Bury(msgspec.Struct, frozen=True):
    """Set it aside for a person, with the reason."""

    reason: Reason
    text: str = ""


Verdict = Done | TryAgain | Bury


def judge(
    retry: Retry | None, outcome: Outcome, attempts: Attempts, chance: float = 0.0
) -> Verdict:
    """Return the verdict on a run; `attempts` are those before it, `chance` is in [0, 1).

    A specific rule wins over `*` and the two never add up; counters are kept per exit code.
    """
    if outcome.exit_code == 0 and outcome.cause is Cause.EXIT:
        return Done()
    if outcome.cause is Cause.LOST:
        return TryAgain(delay=float(min(2**attempts.starts, 60)), counted=False)
    text = describe(outcome)
    if outcome.cause is Cause.BAD_MESSAGE:
        return Bury(Reason.BAD_MESSAGE, text)
    if outcome.cause is Cause.BAD_OUTPUT and retry is None:
        return Bury(Reason.BAD_OUTPUT, text)
    rules = retry or DEFAULT_RETRY
    allowed = _allowed(rules, outcome, named=retry is not None)
    if allowed == 0:
        return Bury(_final_reason(outcome, Reason.NO_RULE), text)
    same = _failures_of(attempts, outcome, rules)
    if same >= min(allowed, RETRIES_CEILING) or attempts.failed >= rules.most:
        return Bury(_final_reason(outcome, Reason.EXHAUSTED), text)
    return TryAgain(delay=_wait(rules, attempts.failed, chance))


def poisoned(attempts: Attempts) -> bool:
    """Whether a task was started so often without a verdict that it must not start again.

    The first start is not written down, hence the one less.
    """
    return attempts.starts >= STARTS_PER_TASK - 1


def describe(outcome: Outcome) -> str:
    """Say in a sentence how a run failed."""
    match outcome.cause:
        case Cause.TIMEOUT:
            return outcome.detail or "ended at its timeout (exit code 124)"
        case Cause.MEMORY:
            return outcome.detail or "out of memory"
        case _:
            return outcome.detail or f"exit code {outcome.exit_code}"


def _allowed(rules: Retry, outcome: Outcome, *, named: bool) -> int:
    """How many retries the rules give this exit code."""
    code = str(outcome.exit_code)
    if outcome.cause is Cause.MEMORY and not (named and code in rules.rules):
        return MEMORY_RETRIES
    if code in rules.rules:
        return rules.rules[code]
    return rules.rules.get("*", 0)


def _failures_of(attempts: Attempts, outcome: Outcome, rules: Retry) -> int:
    """Failures that count against this code's retries: the default bounds all codes together."""
    if rules is DEFAULT_RETRY and outcome.cause is not Cause.MEMORY:
        return attempts.failed
    return attempts.failures.get(str(outcome.exit_code), 0)


def _wait(rules: Retry, failed: int, chance: float) -> float:
    try:
        wait = min(rules.delay * rules.factor**failed, rules.longest)
    except OverflowError:
        wait = rules.longest
    return float(min(wait * (1 + rules.jitter * chance), rules.longest))


def _final_reason(outcome: Outcome, otherwise: Reason) -> Reason:
    match outcome.cause:
        case Cause.MEMORY:
            return Reason.OUT_OF_MEMORY
        case Cause.BAD_OUTPUT:
            return Reason.BAD_OUTPUT
        case _:
            return otherwise
