"""The benchmark's arithmetic and its command line; the measuring itself is no test."""

import importlib
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
FACTS = {
    "date": "today",
    "commit": "c",
    "processor": "p",
    "cores": 2,
    "memory_gib": 1.0,
    "kernel": "k",
    "python": "3",
    "packages": {},
    "tools": {},
    "file_system": "ext4",
    "sync_ms": 1.0,
}


def load_bench(name: str) -> ModuleType:
    """Load a file of bench/, which is part of no package that is installed."""
    spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # msgspec looks annotations up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a file of bench/ that imports others; behind all that is installed, as it does."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(BENCH.parent)])
    return lambda name: importlib.import_module(f"bench.{name}")


figures = load_bench("figures")


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

    first = "chain, commit, processes, peers, containers, oci, slot, resident, latency"
    expected = f"{first}, send, start, memory, growth, link"
    assert expected in " ".join(told.split())


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        pytest.param(0, [25, 52.5, 60], id="what-is-left-goes-on"),
        pytest.param(25, [25, 40, 45], id="in-time"),
        pytest.param(80, [25, 12.5, 0], id="late"),
    ],
)
def test_the_cases_share_the_time_that_is_there(
    bench: Callable[[str], ModuleType], used: float, expected: list[float]
) -> None:
    """Who takes too long takes it from the next ones, but for what each cannot do without."""
    now = 0.0
    bounds, least = {"a": 30.0, "b": 60.0, "c": 60.0}, {"a": 10.0, "b": 10.0, "c": 0.0}
    budget = bench("budget").Budget(95.0, bounds, least, lambda: now)
    taken = []
    for case in bounds:
        taken.append(budget.take(case))
        now += used

    assert taken == expected


def test_without_minutes_each_case_has_its_own_bound(bench: Callable[[str], ModuleType]) -> None:
    """The time of all is only short if somebody has said so."""
    program = bench("program")
    budget = program.budget_of(("growth", "chain"), None, quick=False)

    assert [budget.take(case) for case in ("growth", "chain")] == [
        program.seconds_of("growth", quick=False),
        program.SECONDS,
    ]


def test_in_so_many_minutes_counts_are_small_but_not_depths(
    bench: Callable[[str], ModuleType],
) -> None:
    """More rounds fit into the time, and what is asked at a million is measured at a million."""
    is_small = bench("program").is_small

    assert [
        is_small("chain", 18.0, False),
        is_small("growth", 18.0, False),
        is_small("growth", 18.0, True),
        is_small("chain", None, False),
    ] == [True, False, True, False]


async def test_every_side_begins_a_round_in_its_turn() -> None:
    """With more than two sides none always meets the machine as another one left it."""
    order: list[int] = []

    async def side(number: int) -> float:
        order.append(number)
        return float(number)

    effort = figures.Effort(rounds=3, quick=True, until=float("inf"))
    values = await figures.take_turns(effort, [partial(side, number) for number in range(3)])

    assert order == [0, 1, 2, 1, 2, 0, 2, 0, 1]
    assert values == [(0.0,) * 3, (1.0,) * 3, (2.0,) * 3]


def test_what_could_not_be_measured_stands_in_the_table_with_its_reason(
    bench: Callable[[str], ModuleType],
) -> None:
    """A peer that cannot be installed is a row, and not a silence."""
    report, kinds, machine = bench("report"), bench("figures"), bench("machine")
    gap = kinds.Gap(name="peer x", reason="no such package")
    case = kinds.CaseReport(case="peers", title="T", command="c", how="H", gaps=(gap,))
    facts = msgspec.convert(FACTS, machine.Facts)

    page = report.page(report.Report(facts=facts, command="c", rounds=1, quick=True, cases=(case,)))

    assert "| peer x | | | | | | - | not measured: no such package |" in page
    assert "Not measured: peer x." in page


def test_a_mode_that_this_version_does_not_have_says_what_is_missing(
    bench: Callable[[str], ModuleType],
) -> None:
    """Rows of modes to come need no change here once they are there."""
    mode = bench("modes").Mode
    reasons = [
        mode(name="x", fields={"launch": "by-mail"}).missing,
        mode(name="x", fields={"speed": 9}).missing,
        mode(name="x", runtime="abacus").missing,
        mode(name="x", runtime="process").missing,
    ]

    assert reasons == [
        "this version has no launch mode `by-mail`",
        "this version has no field `speed`",
        "this version has no runtime `abacus`",
        "",
    ]


@pytest.mark.parametrize(("share", "expected"), [(50, 50.0), (99, 99.0), (100, 100.0)])
def test_a_percentile_is_one_of_the_values(
    bench: Callable[[str], ModuleType], share: float, expected: float
) -> None:
    """The p99 of a hundred messages is the last but one."""
    values = [float(number) for number in range(100, 0, -1)]

    assert bench("case_latency").percentile(values, share) == expected


def test_whatever_a_peer_left_running_is_ended(bench: Callable[[str], ModuleType]) -> None:
    """A daemon in a session of its own carries the mark of its peer, and is found by it."""
    peers = bench("peers")
    marked = {"PATH": os.defpath, peers.MARK: "a-mark-of-this-test"}
    leader, daemon = (
        subprocess.Popen(("/bin/sleep", "60"), env=marked, start_new_session=True) for _ in range(2)
    )
    other = subprocess.Popen(("/bin/sleep", "60"), env={}, start_new_session=True)
    try:
        peers._end(leader.pid, "a-mark-of-this-test")

        assert [leader.wait(5), daemon.wait(5)] == [-signal.SIGTERM] * 2
        assert other.poll() is None
    finally:
        for child in (leader, daemon, other):
            child.kill()
            child.wait()
