"""Launch mode `resident`: who is to blame, and when somebody's time is up."""

import asyncio

import msgspec
import pytest

from scalebox_actors.launch.resident_clock import Clock
from scalebox_actors.launch.resident_fate import (
    Again,
    Asked,
    Death,
    Ending,
    Why,
    fate,
    not_started,
    whom_to_blame,
)
from scalebox_actors.limits import RESIDENT_FAULTS
from scalebox_actors.message import Message
from scalebox_actors.ports import Exit, Logs, Task
from scalebox_actors.records import Cause, Outcome
from scalebox_actors.topology.model import Duration, Keep, Module

MODULE = Module(name="m", image="i", timeout=Duration(10))
TIMEOUT = Ending(Why.TIMEOUT, "too long", culprit="m1", suspects=frozenset({"m2"}))
FAULTS = Ending(Why.FAULTS, "noise")


def asked(name: str = "m1", *, given: float = 1.0, heard: float = 1.0) -> Asked:
    """Return a message that a program has got."""
    loop = asyncio.new_event_loop()
    made = Asked(Task(message=Message(module="m", id=name, body=b"")), loop.create_future())
    loop.close()
    made.given, made.heard = given, heard
    return made


def summary(end: Outcome | Again) -> object:
    """Return what matters of a fate."""
    return end if isinstance(end, Again) else (end.exit_code, end.cause)


@pytest.mark.parametrize(
    ("ended", "ending", "together", "expected"),
    [
        pytest.param(Exit(code=7), Ending(), 1, (7, Cause.EXIT), id="alone-it-is-the-one"),
        pytest.param(Exit(code=7), Ending(), 2, Again(alone=True), id="together-it-is-not-known"),
        pytest.param(
            Exit(code=0, out_of_memory=True), Ending(), 1, (137, Cause.MEMORY), id="memory"
        ),
        pytest.param(
            Exit(code=137, out_of_memory=True), Ending(), 3, Again(alone=True), id="whose-memory"
        ),
        pytest.param(Exit(code=137, lost=True), Ending(), 1, Again(), id="ended-from-outside"),
        pytest.param(Exit(code=137, lost=True), Ending(), 4, Again(), id="all-from-outside"),
        pytest.param(Exit(code=0), Ending(), 1, Again(alone=True, quiet=True), id="quietly-once"),
        pytest.param(Exit(code=143), TIMEOUT, 3, (124, Cause.TIMEOUT), id="its-time-was-up"),
        pytest.param(Exit(code=0), TIMEOUT, 1, (124, Cause.TIMEOUT), id="it-took-the-end-well"),
        pytest.param(Exit(code=143), FAULTS, 1, Again(alone=True), id="noise-may-be-another's"),
        pytest.param(Exit(code=0), Ending(Why.RETIRED), 1, Again(), id="retired"),
        pytest.param(Exit(code=143), Ending(Why.STOPPED), 2, Again(), id="another-one-was-stopped"),
    ],
)
def test_fate(ended: Exit, ending: Ending, together: int, expected: object) -> None:
    """What becomes of a message follows from how its program ended and what else it had."""
    death = Death(ended, Logs(), ending, together)

    assert expected == summary(fate(MODULE, death, asked()))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("m2", Again(alone=True)), ("m3", Again())],
    ids=["also-late", "in-time"],
)
def test_fate_beside_a_timeout(name: str, expected: Again) -> None:
    """Beside the one whose time was up, others run again; those that were late as well, alone."""
    death = Death(Exit(code=143), Logs(), TIMEOUT, 3)

    assert expected == fate(MODULE, death, asked(name))


def test_fate_of_noise_that_repeats() -> None:
    """A message that is alone with a program all the time it makes noise is unusable."""
    one = asked()
    one.alone, one.faults = True, RESIDENT_FAULTS
    death = Death(Exit(code=143), Logs(), FAULTS, 1)

    assert summary(fate(MODULE, death, one)) == (120, Cause.BAD_OUTPUT)


def test_fate_of_a_second_quiet_end() -> None:
    """A program that ends with 0 on a message again does not answer it: that is no success."""
    one = asked()
    one.quiet = 1

    assert summary(fate(MODULE, Death(Exit(code=0), Logs(), together=1), one)) == (
        120,
        Cause.BAD_OUTPUT,
    )


def test_fate_of_a_stopped_one() -> None:
    """A message that a person has ended is over, whatever else went on."""
    one = asked()
    one.stopped = True

    assert summary(fate(MODULE, Death(Exit(code=0), Logs(), TIMEOUT, 1), one)) == (137, Cause.EXIT)


def test_fate_of_one_not_handed_over() -> None:
    """A message whose files were still being written has nothing to do with it."""
    one = Asked(asked().task, asked().end)

    assert fate(MODULE, Death(Exit(code=7), Logs(), together=0), one) == Again()


def test_blame() -> None:
    """Of those that are late the oldest is to blame: the others may have waited behind it."""
    late = [asked("b", given=2.0), asked("a", given=1.0), asked("c", given=3.0)]

    assert whom_to_blame(late) == ("a", frozenset({"b", "c"}))


@pytest.mark.parametrize(
    ("death", "says"),
    [
        (
            Death(Exit(code=3), Logs(stderr=b"first\n\nlast words \n\n")),
            "the program ends at its start with exit code 3: last words",
        ),
        (
            Death(Exit(code=127, not_started=True, detail="no such file"), Logs()),
            "`launch: resident` needs /bin/sh in the image: no such file",
        ),
        (Death(Exit(code=143), Logs(), Ending(Why.TIMEOUT, "not ready after 10 s")), "not ready"),
    ],
)
def test_not_started(death: Death, says: str) -> None:
    """A program that does not get going says why, as well as it can be known."""
    outcome = not_started(death)

    assert outcome.cause is Cause.NOT_STARTED
    assert outcome.detail.startswith(says)


def clock(*, heartbeat: float = 0.0, idle: float = 600, age: float | None = None) -> Clock:
    """Return the clock of a program that has got ready at 100."""
    keep = Keep(idle=Duration(idle), age=None if age is None else Duration(age))
    made = Clock(msgspec.structs.replace(MODULE, keep=keep), 90.0)
    made.heartbeat = heartbeat
    made.open(100.0)
    made.heard(100.0)
    return made


def why(due: Ending | float) -> object:
    """Return why a program is ended, or when to look again."""
    return due.why if isinstance(due, Ending) else due


@pytest.mark.parametrize(
    ("now", "expected"), [(105.0, 110.0), (109.9, 110.0), (110.0, Why.TIMEOUT)]
)
def test_time_to_start(now: float, expected: object) -> None:
    """A program has the time of one message to get ready."""
    assert expected == why(clock().at_start(now))


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        pytest.param(105.0, 111.0, id="the-oldest-is-next"),
        pytest.param(111.0, Why.TIMEOUT, id="the-oldest-is-late"),
    ],
)
def test_time_at_work(now: float, expected: object) -> None:
    """Every message has its time from when it was handed over."""
    messages = [asked("a", given=101.0), asked("b", given=104.0)]

    assert expected == why(clock().at_work(now, messages))


def test_time_at_work_of_one_not_handed_over() -> None:
    """A message whose files are being written has all its time before it."""
    assert clock().at_work(500.0, [Asked(asked().task, asked().end)]) == 510.0


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        pytest.param(102.9, 103.0, id="three-beats-are-waited-for"),
        pytest.param(103.0, Why.SILENT, id="and-no-more"),
    ],
)
def test_time_without_a_beat(now: float, expected: object) -> None:
    """A program that promised beats gives one for every message it has."""
    messages = [asked("a", given=100.0, heard=100.0), asked("b", given=100.0, heard=102.5)]
    due = clock(heartbeat=1.0).at_work(now, messages)

    assert expected == why(due)
    assert not isinstance(due, Ending) or due.culprit == "a"


@pytest.mark.parametrize(
    ("keep", "now", "expected"),
    [
        pytest.param({"idle": 5}, 104.0, 105.0, id="idle-soon"),
        pytest.param({"idle": 5}, 105.0, Why.RETIRED, id="idle"),
        pytest.param({"age": 3}, 102.0, 103.0, id="old-soon"),
        pytest.param({"age": 3}, 103.0, Why.RETIRED, id="old"),
        pytest.param({"age": 9, "idle": 5}, 104.0, 105.0, id="whichever-is-first"),
    ],
)
def test_time_at_rest(keep: dict[str, float], now: float, expected: object) -> None:
    """A program that nobody needs ends, and so does an old one."""
    assert expected == why(clock(**keep).at_rest(now))


def test_age_at_work() -> None:
    """A program that is never at rest is looked at when it gets old, and takes nothing more."""
    old = clock(age=3)

    assert old.at_work(101.0, [asked(given=101.0)]) == 103.0
    assert (old.old(102.9), old.old(103.0)) == (False, True)
    assert old.at_work(103.0, [asked(given=101.0)]) == 111.0


def test_pings() -> None:
    """A program at rest is asked for a sign of life after each beat that it promised."""
    resting = clock(heartbeat=2.0)

    assert [resting.wants_ping(now) for now in (101.9, 102.0)] == [False, True]
    resting.pinged(102.0)
    assert resting.at_rest(102.0) == 104.0
    assert [resting.wants_ping(now) for now in (103.9, 104.0)] == [False, True]
    resting.pinged(104.0)
    assert resting.at_rest(104.0) == 106.0
    assert why(resting.at_rest(106.0)) is Why.SILENT
    resting.heard(105.0)
    assert resting.at_rest(106.0) == 107.0
