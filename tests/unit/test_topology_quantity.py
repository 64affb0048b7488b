"""Durations and sizes: how they are written, read and shown."""

import pytest
from hypothesis import given
from unit.strategies import durations, sizes

from scalebox_actors.topology.model import Duration, Size
from scalebox_actors.topology.quantity import parse_duration, parse_size, show_duration, show_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("300ms", 0.3), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("2d", 172_800), (90, 90)],
)
def test_durations(text: str | float, seconds: float) -> None:
    """The spellings of DESIGN."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("64KiB", 65_536), ("256MiB", 2**28), ("10GB", 10**10), ("1.5KiB", 1536), (7, 7)],
)
def test_sizes(text: str | int, size: int) -> None:
    """The spellings of DESIGN."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "m", "5", "5 m", "-5m", "1m1h", "1ms1s", "\uff15m", "5M"])
def test_what_is_no_duration(text: str) -> None:
    """Units in order, each once, digits of ASCII."""
    assert parse_duration(text) is None


@pytest.mark.parametrize("text", ["", "5", "5m", "64 MiB", "64mib", "0.3B", "-1KiB", "9999999TiB"])
def test_what_is_no_size(text: str) -> None:
    """A unit is needed, and the bytes must be whole and fit 63 bits."""
    assert parse_size(text) is None


@given(durations(0.0))
def test_a_duration_comes_back_exactly(duration: Duration) -> None:
    """What is shown is read as the same number of seconds, to the last bit."""
    assert parse_duration(show_duration(duration)) == duration


@given(sizes(0))
def test_a_size_comes_back_exactly(size: Size) -> None:
    """What is shown is read as the same number of bytes."""
    assert parse_size(show_size(size)) == size
