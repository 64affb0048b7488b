"""The benchmark's command line: which cases, how much of each, where the figures go."""

import argparse
import asyncio
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import msgspec

from bench.budget import Budget
from bench.children import be_child
from bench.figures import CaseReport, Effort, Figure, Gap
from bench.machine import ROOT, facts, load
from bench.peers import PEERS, PeerMissingError, install
from bench.report import Report, page, show

CASES = (
    "chain",
    "commit",
    "processes",
    "peers",
    "containers",
    "oci",
    "slot",
    "resident",
    "latency",
    "send",
    "start",
    "memory",
    "growth",
    "link",
)
ROUNDS, QUICK_ROUNDS = 5, 3
SECONDS, QUICK_SECONDS = 120.0, 45.0
"""Of one case that names no time of its own; after it no further round is begun."""
LEAST = 10.0
"""Of one case that does not say what it cannot do without: a round of smaller counts, measured on
two cores that others used as well."""
MOST = 300.0
"""Of one case, where the time is for all: the others want rounds, too."""
QUICK_SHARE = 3
"""The quick run of a case with a time of its own has that divided by this."""
NUMBERS = ROOT / "docs" / "numbers.md"


def main(arguments: Sequence[str]) -> int:
    """Measure what is asked for; returns 0 also when a bar is missed, 1 if a case failed."""
    if arguments[:1] == ["--child"]:
        return be_child(*arguments[1:])
    options = _parser().parse_args(arguments)
    # Ended from outside, a case still ends what it has started, as after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    cases = tuple(case for case in CASES if case in options.cases) or CASES
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    if options.install_only:
        return _installed()
    if options.minutes and {"peers", "containers"} & set(cases):
        _installed()  # before the clock runs; what is missing stands in the table
    budget = budget_of(cases, options.minutes, quick=options.quick)
    report = Report(
        facts=facts(),
        command=_command(arguments),
        rounds=rounds,
        quick=options.quick or options.minutes is not None,
        cases=tuple(
            _measured(case, rounds, budget, quick=is_small(case, options.minutes, options.quick))
            for case in cases
        ),
    )
    show(report)
    if options.json:
        Path(options.json).write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    if options.write_docs:
        NUMBERS.write_text(page(report))
    return 1 if any(case.failure for case in report.cases) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python bench",
        description="Measure the engine against baselines taken in the same run.",
        epilog="The docker cases use the engine of DOCKER_HOST; `make bench` starts one.",
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and smaller counts")
    parser.add_argument("--rounds", type=int, help=f"{ROUNDS}, quick {QUICK_ROUNDS}")
    parser.add_argument(
        "--minutes",
        type=float,
        help="for all cases together, with smaller counts; else each has its own time",
    )
    parser.add_argument(
        "--install-only", action="store_true", help="install what `peers` compares with, and stop"
    )
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    parser.add_argument("--write-docs", action="store_true", help="write docs/numbers.md")
    return parser


def _installed() -> int:
    """Install the other tools, and tell which cannot be."""
    code = 0
    for peer in PEERS:
        try:
            asyncio.run(install(peer))
        except PeerMissingError as error:
            sys.stderr.write(f"bench: {error}\n")
            code = 1
    return code


def budget_of(cases: Sequence[str], minutes: float | None, *, quick: bool) -> Budget:
    """Return the time of all cases: so many minutes, or what they ask for."""
    bounds = {case: seconds_of(case, quick=quick) for case in cases}
    if minutes is None:
        return Budget(float("inf"), bounds, dict.fromkeys(cases, 0.0))
    least = {case: float(getattr(_module(case), "LEAST", LEAST)) for case in cases}
    most = {case: min(bound, MOST) for case, bound in bounds.items()}
    return Budget(minutes * 60, most, least)


def is_small(case: str, minutes: float | None, quick: bool) -> bool:
    """Whether a case takes its smaller counts: asked for, or for rounds to fit into the minutes."""
    return quick or (minutes is not None and not getattr(_module(case), "WHOLE", False))


def _measured(case: str, rounds: int, budget: Budget, *, quick: bool) -> CaseReport:
    module = _module(case)
    began, before = time.monotonic(), load()
    seconds = budget.take(case)
    effort = Effort(rounds=rounds, quick=quick, until=began + seconds)
    folder = Path(tempfile.mkdtemp(prefix="sbx-bench-"))
    sys.stderr.write(f"bench: {case}, {seconds:.0f} s\n")
    found: list[Figure | Gap] = []
    failure = ""
    try:
        found = asyncio.run(module.run(folder, effort))
    except Exception as error:  # noqa: BLE001 - the other cases still have something to say
        failure = f"{type(error).__name__}: {error}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return CaseReport(
        case=case,
        title=module.TITLE,
        command=_command([case, *(["--quick"] if quick else [])]),
        how=module.HOW,
        figures=tuple(row for row in found if isinstance(row, Figure)),
        gaps=tuple(row for row in found if isinstance(row, Gap)),
        load_before=before,
        load_after=load(),
        seconds=time.monotonic() - began,
        failure=failure,
    )


def seconds_of(case: str, *, quick: bool) -> float:
    """Return how long rounds of a case are begun."""
    own = getattr(_module(case), "SECONDS", None)
    if own is None:
        return QUICK_SECONDS if quick else SECONDS
    return float(own) / QUICK_SHARE if quick else float(own)


def _module(case: str) -> ModuleType:
    return importlib.import_module(f"bench.case_{case}")


def _command(arguments: Sequence[str]) -> str:
    """Return the command as anybody would give it: without the name of a file of this machine."""
    words = [
        "FILE" if before == "--json" else word
        for before, word in zip(("", *arguments), arguments, strict=False)
    ]
    return " ".join(["python", "bench", *words])
