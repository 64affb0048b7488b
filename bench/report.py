"""What was measured, as a table for a terminal and as docs/numbers.md."""

from collections.abc import Sequence
from typing import Literal

import msgspec
from rich.console import Console
from rich.table import Table

from bench.figures import CaseReport, Figure
from bench.machine import Facts

COLUMNS = ("figure", "unit", "ours", "baseline", "ratio", "bar", "", "baseline is")
WIDTH = 156
_VERDICTS = {None: "-", True: "met", False: "MISSED"}


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the benchmark."""

    facts: Facts
    command: str
    rounds: int
    quick: bool
    cases: tuple[CaseReport, ...]


def show(report: Report) -> None:
    """Print the table."""
    console = Console(highlight=False)
    console = Console(highlight=False, width=max(console.width, WIDTH))
    for line in _facts(report.facts):
        console.print(line, markup=False)
    table = Table()
    for place, title in enumerate(COLUMNS):
        # What the baseline is may take two lines; a figure is never cut for it.
        last = place == len(COLUMNS) - 1
        justify: Literal["left", "right"] = "right" if place in (2, 3, 4, 5) else "left"
        table.add_column(title, justify=justify, no_wrap=not last)
    for case in report.cases:
        for figure in case.figures:
            table.add_row(*_row(figure))
        for gap in case.gaps:
            table.add_row(gap.name, "", "", "", "", "", "-", f"not measured: {gap.reason}")
        if case.failure:
            table.add_row(case.case, "", "", "", "", "", "-", f"not measured: {case.failure}")
    console.print(table)
    console.print(_missed(report), markup=False)


def page(report: Report) -> str:
    """Return docs/numbers.md."""
    parts = [_HEAD, *(f"- {line}\n" for line in _facts(report.facts)), _summary(report)]
    parts += [_section(case) for case in report.cases]
    return "".join(parts)


def number(value: float) -> str:
    """Return a figure with the digits that mean something."""
    if value >= 1000:  # noqa: PLR2004
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"  # noqa: PLR2004


_HEAD = """\
# Numbers

Written by `python bench --write-docs`; do not edit. Every figure stands beside a baseline that was
taken in the same run: both sides alternate round by round, and *ratio* is the median of the
rounds' ours ÷ baseline. Read the ratios: the rates are those of one machine under the load that is
given, and move by a factor of two with it.

"""


def _facts(facts: Facts) -> list[str]:
    packages = ", ".join(f"{name} {version}" for name, version in facts.packages.items())
    tools = ", ".join(facts.tools.values())
    return [
        f"date: {facts.date}; commit: {facts.commit}",
        f"{facts.cores} cores of {facts.processor}, {facts.memory_gib} GiB, {facts.kernel}",
        f"Python {facts.python}, {packages}",
        f"engines: {tools}",
        f"durability: {facts.durability}",
        f"stores lie on {facts.file_system}; one fsync of 4 KiB takes {facts.sync_ms} ms there",
    ]


def _summary(report: Report) -> str:
    rounds = f"at most {report.rounds} rounds{', smaller counts' if report.quick else ''}"
    return (
        f"- command of the whole: `{report.command}` ({rounds})\n\n"
        f"{_missed(report)}\n\n"
        f"| {' | '.join(title or 'verdict' for title in COLUMNS)} |\n"
        "|---|---|---:|---:|---:|---:|---|---|\n"
        + "".join(
            f"| {' | '.join(_row(figure))} |\n" for case in report.cases for figure in case.figures
        )
        + "".join(
            f"| {gap.name} | | | | | | - | not measured: {gap.reason} |\n"
            for case in report.cases
            for gap in case.gaps
        )
    )


def _missed(report: Report) -> str:
    figures = [figure for case in report.cases for figure in case.figures]
    missed = [figure.name for figure in figures if figure.met is False]
    asked = sum(figure.met is not None for figure in figures)
    unmeasured = [case.case for case in report.cases if case.failure]
    unmeasured += [gap.name for case in report.cases for gap in case.gaps]
    text = f"Of {asked} bars {asked - len(missed)} are met."
    if missed:
        text += f" Missed: {'; '.join(missed)}."
    if unmeasured:
        text += f" Not measured: {', '.join(unmeasured)}."
    return text


def _row(figure: Figure) -> Sequence[str]:
    return (
        figure.name,
        figure.unit,
        number(figure.value),
        number(figure.reference),
        f"{figure.ratio:.2f} x",
        str(figure.bar or "-"),
        _VERDICTS[figure.met],
        figure.against,
    )


def _section(case: CaseReport) -> str:
    lines = [
        f"\n## {case.title}\n\n{case.how}\n\n`{case.command}`, {case.seconds:.0f} s; load average",
        f" before {case.load_before}, after {case.load_after}.\n\n",
    ]
    if case.failure:
        lines.append(f"Not measured: {case.failure}\n")
        return "".join(lines)
    lines.append("| figure | unit | ours, by round | baseline, by round |\n|---|---|---|---|\n")
    for figure in case.figures:
        ours, base = (", ".join(map(number, side)) for side in (figure.ours, figure.baseline))
        lines.append(f"| {figure.name} | {figure.unit} | {ours} | {base} |\n")
    lines += [f"\nNot measured: {gap.name}: {gap.reason}\n" for gap in case.gaps]
    lines += [f"\n{figure.name}: {figure.note}\n" for figure in case.figures if figure.note]
    return "".join(lines)
