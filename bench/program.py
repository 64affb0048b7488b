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

import msgspec

from bench.children import be_child
from bench.figures import CaseReport, Effort, Figure, Gap
from bench.machine import ROOT, facts, load
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
    report = Report(
        facts=facts(),
        command=_command(arguments),
        rounds=rounds,
        quick=options.quick,
        cases=tuple(_measured(case, rounds, quick=options.quick) for case in cases),
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
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    parser.add_argument("--write-docs", action="store_true", help="write docs/numbers.md")
    return parser


def _measured(case: str, rounds: int, *, quick: bool) -> CaseReport:
    module = importlib.import_module(f"bench.case_{case}")
    began, before = time.monotonic(), load()
    effort = Effort(rounds=rounds, quick=quick, until=began + seconds_of(case, quick=quick))
    folder = Path(tempfile.mkdtemp(prefix="sbx-bench-"))
    sys.stderr.write(f"bench: {case}\n")
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
    own = getattr(importlib.import_module(f"bench.case_{case}"), "SECONDS", None)
    if own is None:
        return QUICK_SECONDS if quick else SECONDS
    return float(own) / QUICK_SHARE if quick else float(own)


def _command(arguments: Sequence[str]) -> str:
    return " ".join(["python", "bench", *arguments])
