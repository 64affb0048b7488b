"""When messages are asked for ahead of a free slot, and when not."""

import pytest

from scalebox_actors.broker.ahead import HORIZON, LATE, Ahead


def after(
    seconds: float, *, turns: int = 60, slots: int = 4, most: int = 64
) -> tuple[Ahead, float]:
    """Return what is known after so many runs of so many seconds, one after the other by slot."""
    ahead, now = Ahead(most), 100.0
    ahead.free(slots, now)
    for _ in range(slots):
        ahead.take()
    for _ in range(turns):
        now += seconds / slots
        ahead.free(1, now)
        ahead.take()
    return ahead, now


def test_short_runs_have_as_many_at_hand_again_as_there_are_slots() -> None:
    """With runs of 50 ms in 4 slots, 4 more messages are at hand."""
    ahead, _ = after(0.05)

    assert ahead.amount == 4


def test_very_short_runs_have_more_at_hand() -> None:
    """With runs of 1 ms in 2 slots, as many as are worked off before others can have come."""
    ahead, _ = after(0.001, slots=2, turns=200)

    assert ahead.amount == round(HORIZON / 0.0005)


def test_a_few_short_runs_are_enough() -> None:
    """A node that has just begun does not take them for long ones."""
    ahead, _ = after(0.005, slots=1, turns=2)

    assert ahead.amount == round(HORIZON / 0.005)


@pytest.mark.parametrize("idle", [0.0, 5.0, 600.0])
def test_a_rest_is_soon_forgotten(idle: float) -> None:
    """However long no message came: where runs are short, that is known after some of them."""
    ahead, now = Ahead(64), 100.0
    ahead.free(1, now)
    now += idle
    for _ in range(10):
        ahead.take()
        now += 0.002
        ahead.free(1, now)

    assert ahead.amount > 0


def test_slots_that_were_never_used_do_not_fall_free() -> None:
    """They are granted in quick succession when a module starts: no run was short."""
    ahead = Ahead(64)
    for moment in range(5):
        ahead.free(2, 100.0 + moment * 1e-5)

    assert ahead.amount == 0


def test_long_runs_have_nothing_at_hand() -> None:
    """A message that would wait a second for its slot is left to others."""
    ahead, _ = after(1.0)

    assert ahead.amount == 0


def test_no_more_than_the_most_is_at_hand() -> None:
    """A module with very many slots does not draw as many again."""
    ahead, _ = after(0.005, slots=200, turns=400, most=64)

    assert ahead.amount == 64


def test_who_may_have_none_never_has_any() -> None:
    """A courier asks for what it may carry, and for nothing ahead."""
    ahead, _ = after(0.001, most=0)

    assert ahead.amount == 0


def test_an_idle_module_has_nothing_at_hand() -> None:
    """Runs are short, but messages are rare: the next one is no sooner there for being asked."""
    ahead, now = Ahead(64), 100.0
    ahead.free(4, now)
    for _ in range(60):
        ahead.take()
        now += 1.0
        ahead.free(1, now)

    assert ahead.amount == 0


def test_a_slot_is_asked_for_at_once_and_what_is_ahead_by_the_half() -> None:
    """A pull for every message would cost more than it brings."""
    ahead, _ = after(0.05)

    assert not ahead.worth_asking(1, 3)
    assert ahead.worth_asking(2, 2)
    ahead.free(1, 200.0)
    assert ahead.worth_asking(1, 0)


def test_without_a_free_slot_for_a_while_nothing_should_wait() -> None:
    """All slots have long runs suddenly: what is at hand is somebody else's."""
    ahead, now = after(0.05)

    assert not ahead.is_late(now + LATE / 2)
    assert ahead.is_late(now + LATE * 1.5)
    assert ahead.give_up() == 4
    assert ahead.amount == 0
