"""Rates, times left and the sentences about them."""

import pytest

from scalebox_actors.cli.progress import Pace, Pacer, cells, farewell, headline, plain
from scalebox_actors.local import ModuleView


def seen(done: int = 0, waiting: int = 0, **more: int) -> ModuleView:
    """Return the view of a module."""
    return ModuleView(
        module="count",
        waiting=waiting,
        in_hand=more.get("in_hand", 0),
        done=done,
        retried=more.get("retried", 0),
        dead=more.get("dead", 0),
    )


def test_nothing_ended_means_no_guess() -> None:
    """Without a rate there is no time left to speak of."""
    actual = Pacer(0.0).see([seen(waiting=10)], 2.0)

    assert Pace(elapsed=2.0, rate=0.0, left=None) == actual


def test_the_time_left_is_what_is_ahead_by_the_rate() -> None:
    """Ten done in two seconds, twenty ahead: four seconds."""
    actual = Pacer(0.0).see([seen(done=8, dead=2, waiting=16, in_hand=4)], 2.0)

    assert Pace(elapsed=2.0, rate=5.0, left=4.0) == actual


def test_the_rate_is_that_of_late() -> None:
    """What happened long ago does not count: a slow start is forgotten."""
    pacer = Pacer(0.0)
    pacer.see([seen(done=0)], 100.0)
    actual = pacer.see([seen(done=50)], 110.0)

    assert actual.rate == 5.0


def test_the_same_moment_twice_is_no_division_by_zero() -> None:
    """A clock may stand still between two looks."""
    assert Pacer(5.0).see([seen(done=1)], 5.0).rate == 0.0


@pytest.mark.parametrize(
    ("pace", "expected"),
    [
        (Pace(elapsed=12, rate=5.4, left=3), "12s, 5.4 tasks/s, about 3.0s left"),
        (Pace(elapsed=12, rate=0, left=None), "12s, 0.0 tasks/s"),
    ],
)
def test_headline(pace: Pace, expected: str) -> None:
    """Time left is told where it is known."""
    assert expected == headline(pace)


def test_the_plain_line_has_every_module() -> None:
    """In a pipe the whole state is one line."""
    pace = Pace(elapsed=1, rate=1, left=None)
    actual = plain([seen(done=3, waiting=1200, dead=1, retried=2)], pace)

    assert actual == "1.0s, 1.0 tasks/s | count: 1,200 waiting, 3 done, 1 failed, 2 retried"


def test_cells_are_in_the_order_of_the_table() -> None:
    """Module, waiting, running, done, failed, retried, and why it is suspended."""
    actual = cells(seen(done=3, waiting=1, in_hand=2, dead=4, retried=5))

    assert actual == ("count", "1", "2", "3", "4", "5", "")


def test_farewell_tells_failures_only_if_there_are_any() -> None:
    """The sentence at the end is short when all went well."""
    assert farewell("t", [seen(done=1)], 2.0) == "t: 1 task done in 2.0s"
    assert farewell("t", [seen(dead=2, retried=3)], 60) == (
        "t: 0 tasks done, 2 failed, 3 retried in 1m00s"
    )
