"""Tallies, windows and token buckets of the links between sites."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalebox_actors.crossing import (
    LATEST,
    WINDOW_FIRST,
    WINDOW_LEAST,
    Bucket,
    Passed,
    Tally,
    Window,
    mark,
    received_key,
    sent_key,
)

MARKS = st.lists(st.integers(0, (1 << 128) - 1), max_size=20)


@given(MARKS, st.randoms())
def test_a_tally_does_not_depend_on_the_order(marks: list[int], random: object) -> None:
    """Both ends get the same hash, whatever overtook what on the way."""
    shuffled = list(marks)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis' Random

    assert Tally().plus(marks) == Tally().plus(shuffled)


@given(MARKS, MARKS)
def test_tallies_of_several_nodes_add_up(some: list[int], others: list[int]) -> None:
    """What two nodes counted apart is what one would have counted."""
    assert Tally().plus(some).added(Tally().plus(others)) == Tally().plus(some + others)


def test_a_mark_tells_messages_apart() -> None:
    """Module, id and body all count, and so does where one ends and the next begins."""
    keys = [("a", "b", b"c"), ("ab", "", b"c"), ("a", "bc", b""), ("b", "a", b"c"), ("a", "b", b"")]

    assert len({mark(*key) for key in keys}) == len(keys)


def test_the_keys_have_their_literals() -> None:
    """The keys of the state bucket are part of what is stored."""
    assert (sent_key("b"), received_key("a")) == ("link.to.b", "link.from.a")


def test_a_window_grows_while_answers_are_quick() -> None:
    """Every quick answer gives room for as much again."""
    window = Window()
    window.sent(1000)
    window.answered(1000, 0.1, now=1.0)

    assert window.room() == WINDOW_FIRST + 1000


def test_a_window_shrinks_once_for_what_flew_together() -> None:
    """Many lost parcels of one moment halve it once, and never to nothing."""
    window = Window()
    for _ in range(5):
        window.sent(100)
        window.lost(100, now=10.0)
    halved = window.room()
    for moment in range(20):
        window.sent(100)
        window.lost(100, now=20.0 + 10 * moment)

    assert (halved, window.room()) == (WINDOW_FIRST // 2, WINDOW_LEAST)


def test_a_slow_answer_shrinks_a_window_that_a_middling_one_leaves() -> None:
    """Between quick and slow nothing changes."""
    window = Window()
    for seconds in (1.5, 3.0):
        window.sent(100)
        window.answered(100, seconds, now=100.0)

    assert window.room() == WINDOW_FIRST // 2


def tries(window: Window, size: int, rate: float, doubt: float = 1.0) -> int:
    """How often so many bytes are handed over until their answer is waited for long enough."""
    for number in itertools.count(1):
        patience = 2.0 + window.patience(size, doubt)
        window.sent(size)
        if patience > size / rate:
            window.heard({Passed.ARRIVED}, size, size / rate, number * 100.0, doubt)
            return number
        doubt = window.heard({Passed.SILENT}, size, patience, number * 100.0, doubt)
    raise AssertionError


@pytest.mark.parametrize("size", [20_000, 200_000, 600_000])
def test_what_is_large_crosses_a_slow_road_at_once(size: int) -> None:
    """At 64 kB/s nothing is given up while it is on its way, whatever was seen before."""
    assert [tries(Window(), size, 64_000), tries(Window(), 100, 64_000)] == [1, 1]


def test_a_road_that_became_slow_is_learned() -> None:
    """After what crossed quickly, something large is given more time at every try."""
    window = Window()
    quick = tries(window, 500_000, 50e6)
    learned = window.patience(500_000, 1.0)

    assert (quick, learned < 0.5) == (1, True)
    assert tries(window, 500_000, 64_000) <= 5
    assert tries(window, 500_000, 64_000) == 1


def test_a_cut_teaches_nothing_of_a_road() -> None:
    """Silence before a closed link was no slow road, and that of a small message never is."""
    window = Window()
    doubts = [1.0]
    for kind, size in ((Passed.SILENT, 100), (Passed.SILENT, 10**6), (Passed.ABSENT, 100)):
        doubts.append(window.heard({kind}, size, 2.0, 100.0, doubts[-1]))

    assert doubts == [1.0, 1.0, 2.0, 1.0]
    assert window.patience(10**9, 64.0) == LATEST
    assert window.patience(100, 64.0) < 0.01


@given(st.floats(1, 1e6), st.lists(st.floats(1, 5000), min_size=1, max_size=50))
def test_a_bucket_keeps_its_rate(rate: float, amounts: list[float]) -> None:
    """Whoever waits as told takes at most the rate, and a moment's worth more."""
    bucket, now = Bucket(rate), 1000.0
    taken = 0.0
    for amount in amounts:
        now += bucket.delay(now)
        bucket.take(amount)
        taken += amount
    now += bucket.delay(now)

    assert taken <= rate * (now - 1000.0) + rate * 0.25 + 1e-6 * taken


def test_a_bucket_always_lets_one_message_go() -> None:
    """A message larger than a moment's worth is not held for ever."""
    bucket = Bucket(0.5)
    lefts = [bucket.left(now) for now in (1.0, 2.0)]
    bucket.take(1)

    assert lefts == [1.0, 1.0]
    assert list(itertools.islice(iter(lambda: bucket.delay(2.0), 0), 1)) == [1.75]
