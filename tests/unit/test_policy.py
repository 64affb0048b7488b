"""The verdict follows from the rules, what happened and what happened before; nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalebox_actors.policy import Bury, Done, Reason, TryAgain, Verdict, judge, poisoned
from scalebox_actors.records import Attempts, Cause, Outcome
from scalebox_actors.topology.model import Duration, Retry

SCALEBOX = Retry(rules={"1": 3, "2": 2, "*": 1})
SLOW = Retry(rules={"75": 9}, delay=Duration(2), factor=2.0, longest=Duration(10))


def failed(**codes: int) -> Attempts:
    """Attempts with these failures: `failed(c75=2)`."""
    return Attempts(failures={code[1:]: count for code, count in codes.items()})


@pytest.mark.parametrize(
    ("retry", "outcome", "attempts", "expected"),
    [
        pytest.param(None, Outcome(exit_code=0), failed(), Done(), id="success-needs-no-rule"),
        pytest.param(None, Outcome(exit_code=1), failed(c1=1), TryAgain(0.0), id="default-second"),
        pytest.param(
            None,
            Outcome(exit_code=1),
            failed(c1=1, c2=1),
            Bury(Reason.EXHAUSTED, "exit code 1"),
            id="default-three-failing-runs-of-any-code",
        ),
        pytest.param(SCALEBOX, Outcome(exit_code=1), failed(c1=2), TryAgain(0.0), id="3-of-1"),
        pytest.param(
            SCALEBOX,
            Outcome(exit_code=1),
            failed(c1=3),
            Bury(Reason.EXHAUSTED, "exit code 1"),
            id="the-last-attempt-is-the-last",
        ),
        pytest.param(
            SCALEBOX,
            Outcome(exit_code=1),
            failed(c2=2, c7=1),
            TryAgain(0.0),
            id="codes-are-counted-apart",
        ),
        pytest.param(
            SCALEBOX,
            Outcome(exit_code=9),
            failed(c9=1),
            Bury(Reason.EXHAUSTED, "exit code 9"),
            id="star-for-any-other",
        ),
        pytest.param(
            Retry(rules={"75": 3}),
            Outcome(exit_code=1),
            failed(),
            Bury(Reason.NO_RULE, "exit code 1"),
            id="no-rule-no-second-run",
        ),
        pytest.param(SLOW, Outcome(exit_code=75), failed(c75=1), TryAgain(4.0), id="grows"),
        pytest.param(SLOW, Outcome(exit_code=75), failed(c75=8), TryAgain(10.0), id="is-capped"),
        pytest.param(
            None,
            Outcome(exit_code=137, cause=Cause.MEMORY, detail="out of memory"),
            failed(c137=1),
            Bury(Reason.OUT_OF_MEMORY, "out of memory"),
            id="memory-once-more-only",
        ),
        pytest.param(
            None,
            Outcome(exit_code=120, cause=Cause.BAD_OUTPUT, detail="sink-tasks.txt:3: bad"),
            failed(),
            Bury(Reason.BAD_OUTPUT, "sink-tasks.txt:3: bad"),
            id="bad-output-is-final-by-default",
        ),
        pytest.param(
            Retry(rules={"*": 1}),
            Outcome(exit_code=120, cause=Cause.BAD_OUTPUT),
            failed(),
            TryAgain(0.0),
            id="bad-output-obeys-an-explicit-rule",
        ),
        pytest.param(
            None,
            Outcome(exit_code=123, cause=Cause.LOST),
            failed(c1=2),
            TryAgain(1.0, counted=False),
            id="a-lost-run-is-nobodys-fault",
        ),
        pytest.param(
            Retry(rules={"*": 1}),
            Outcome(exit_code=124, cause=Cause.TIMEOUT),
            failed(),
            TryAgain(0.0),
            id="timeouts-match-star",
        ),
    ],
)
def test_judge(
    retry: Retry | None, outcome: Outcome, attempts: Attempts, expected: Verdict
) -> None:
    """Each rule of the contract, with the case that tells it from its neighbour."""
    actual = judge(retry, outcome, attempts)

    assert expected == actual


def runs_until_final(retry: Retry, code: int) -> int:
    """Count the runs of a task whose every run ends with `code`."""
    attempts, runs = Attempts(), 0
    while True:
        runs += 1
        outcome = Outcome(exit_code=code)
        if not isinstance(judge(retry, outcome, attempts), TryAgain):
            return runs
        attempts = attempts.with_failure(outcome)


def test_the_worked_example_of_scalebox() -> None:
    """`['1:3','2:2','*']` with bodies 0, 1, 2, 3 that exit with themselves: ten runs."""
    runs = [runs_until_final(SCALEBOX, code) for code in (0, 1, 2, 3)]

    assert runs == [1, 4, 3, 2]


@given(
    st.dictionaries(st.sampled_from(["1", "75", "*"]), st.integers(0, 100), max_size=3),
    st.lists(st.sampled_from([1, 2, 75, 124, 255]), max_size=250),
    st.integers(0, 100),
)
def test_retries_always_end(rules: dict[str, int], codes: list[int], most: int) -> None:
    """Whatever the rules and the failures, the retries stay within the total cap."""
    retry = Retry(rules=rules, most=most)
    attempts, retried = Attempts(), 0
    for code in codes:
        outcome = Outcome(exit_code=code)
        if not isinstance(judge(retry, outcome, attempts), TryAgain):
            break
        retried += 1
        attempts = attempts.with_failure(outcome)

    assert retried <= most


@given(
    st.floats(0, 1e6), st.floats(1, 1e6), st.floats(0, 1), st.floats(0, 0.999), st.integers(0, 99)
)
def test_waits_are_bounded(
    delay: float, factor: float, jitter: float, chance: float, failures: int
) -> None:
    """No delay, factor or jitter makes a wait longer than `longest` or a number overflow."""
    retry = Retry(
        rules={"1": 100}, delay=Duration(delay), factor=factor, jitter=jitter, longest=Duration(60)
    )

    verdict = judge(retry, Outcome(exit_code=1), Attempts(failures={"1": failures}), chance)

    assert isinstance(verdict, TryAgain)
    assert 0 <= verdict.delay <= 60


def test_five_starts_without_a_verdict_are_poison() -> None:
    """The first start is not written down: four that are make five."""
    assert not poisoned(Attempts(starts=3))
    assert poisoned(Attempts(starts=4))
    assert not poisoned(Attempts(starts=4).with_failure(Outcome(exit_code=1)))
