"""The benchmark's arithmetic and its command line; the measuring itself is no test."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


def load_figures() -> ModuleType:
    """Load bench/figures.py, which is part of no package that is installed."""
    spec = importlib.util.spec_from_file_location("bench_figures", BENCH / "figures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # msgspec looks annotations up there
    spec.loader.exec_module(module)
    return module


figures = load_figures()


def test_the_ratio_is_the_median_of_the_rounds_and_not_of_the_sums() -> None:
    """A round in which the machine was slow for both sides counts like every other."""
    figure = figures.Figure(name="x", unit="s", ours=(10, 1, 3), against="y", baseline=(10, 2, 1))

    assert (figure.value, figure.reference, figure.ratio) == (3, 2, 1)


@pytest.mark.parametrize(
    ("bar", "expected"),
    [
        pytest.param(None, None, id="nothing-asked"),
        pytest.param(figures.Bar(limit=6), True, id="just-enough"),
        pytest.param(figures.Bar(limit=6.1), False, id="not-enough"),
        pytest.param(figures.Bar(limit=5, at_least=False), False, id="too-much"),
        pytest.param(figures.Bar(limit=2, of_ratio=True), True, id="of-the-ratio"),
        pytest.param(figures.Bar(limit=1.9, at_least=False, of_ratio=True), False, id="slower"),
    ],
)
def test_a_bar_is_met_by_value_or_by_ratio(bar: object, expected: bool | None) -> None:
    """What is asked is asked of the one that the bar names."""
    figure = figures.Figure(name="x", unit="s", ours=(6,), against="y", baseline=(3,), bar=bar)

    assert expected is figure.met


async def test_the_sides_take_turns_in_going_first() -> None:
    """Whoever always went first would always meet a rested machine."""
    order: list[str] = []

    async def ours() -> float:
        order.append("ours")
        return 1.0

    async def baseline() -> float:
        order.append("baseline")
        return 2.0

    effort = figures.Effort(rounds=2, quick=True, until=float("inf"))
    values = await figures.alternate(effort, ours, baseline)

    assert order == ["ours", "baseline", "baseline", "ours"]
    assert values == ((1.0, 1.0), (2.0, 2.0))


async def test_no_round_begins_after_the_time_is_over() -> None:
    """The benchmark stops by itself, and never without one round of both sides."""

    async def measure() -> float:
        return 1.0

    effort = figures.Effort(rounds=5, quick=True, until=0.0)

    assert await figures.alternate(effort, measure, measure) == ((1.0,), (1.0,))


def test_the_command_line_names_its_cases() -> None:
    """`python bench --help` works from everywhere, and says what can be measured."""
    told = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, str(BENCH), "--help"], capture_output=True, text=True, check=True, cwd="/"
    ).stdout

    cases = "chain, commit, processes, containers, oci, send, start, memory"
    assert cases in " ".join(told.split())
