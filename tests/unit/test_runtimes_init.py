"""What an init says that could not execute its program, and what it means."""

import pytest

from scalebox_actors.ports import Exit, Logs
from scalebox_actors.runtimes.init_words import init_failure, judged, judged_end


@pytest.mark.parametrize(
    ("code", "said", "expected"),
    [
        (
            127,
            b"[FATAL tini (2)] exec /x failed: No such file",
            (127, "exec /x failed: No such file"),
        ),
        (
            1,
            b"ERROR (catatonit:2): failed to exec pid1: No such file or directory",
            (127, "failed"),
        ),
        (1, b"ERROR (catatonit:2): failed to exec pid1: Permission denied", (126, "failed")),
        (1, b"error", (1, "")),
        (2, b"[FATAL tini (2)] exec /x failed: No such file", (2, "")),
    ],
)
def test_a_program_that_was_never_executed_has_a_shells_code(
    code: int, said: bytes, expected: tuple[int, str]
) -> None:
    """Each init has codes of its own; ours are 127 for what is not there and 126 for the rest."""
    actual = judged(code, 0, said)

    assert (actual[0], bool(actual[1])) == (expected[0], bool(expected[1]))
    assert judged(code, 1, said) == (code, "")


@pytest.mark.parametrize(
    ("stderr", "expected"),
    [
        (b"[FATAL tini (2)] exec /x failed: No such file\n", "exec /x failed: No such file"),
        (b"ERROR (catatonit:2): failed to exec pid1: nope\n", "failed to exec pid1: nope"),
        (b"mine\n[FATAL tini (2)] exec /x failed: No such file\n", ""),
        (b"", ""),
    ],
)
def test_what_an_init_says(stderr: bytes, expected: str) -> None:
    """Only an init that could not execute anything speaks alone."""
    assert expected == init_failure(stderr)


class Spoke:
    """A run that has ended, with the words of an init that could not execute the program."""

    name, adopted, waits = "sbx-t.m.one", False, False

    def __init__(self, end: Exit) -> None:
        self._end, self.read = end, 0

    async def begun(self, patience: float, *, leave: bool) -> float | None:  # noqa: ARG002
        """Return when its turn came."""
        return 0.0

    async def wait(self) -> Exit:
        """Return how it ended."""
        return self._end

    async def stop(self, grace: float) -> None:
        """Do nothing: it has ended."""

    async def logs(self, most: int) -> Logs:  # noqa: ARG002 - the port's
        """Return what its init said."""
        self.read += 1
        return Logs(stderr=b"[FATAL tini (2)] exec /x failed: No such file or directory")


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        pytest.param(Exit(code=127), (127, True), id="never-executed"),
        pytest.param(Exit(code=1), (127, True), id="a-shells-code"),
        pytest.param(Exit(code=3), None, id="no-code-of-an-init"),
        pytest.param(Exit(code=127, lost=True), None, id="no-verdict"),
        pytest.param(Exit(code=126, not_started=True), None, id="known-already"),
    ],
)
async def test_an_end_is_judged_by_what_the_init_said(
    end: Exit, expected: tuple[int, bool] | None
) -> None:
    """The logs are read only where an init may have spoken; every other end stays as it is."""
    run = Spoke(end)

    actual = await judged_end(end, run)

    assert run.read == (expected is not None)
    assert (actual.code, actual.not_started) == (expected or (end.code, end.not_started))
