#!/usr/bin/env python3
"""check.py ROOT SAMPLE: compare the pipeline's result with running the same tools by hand.

The tools run on the unsplit reads, in a container of the same image or, without an engine, on the
host; then every read, the flagstat and every called variant are compared.
"""

import os
import subprocess
import sys
from itertools import zip_longest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "deploy"))
from engine import EngineError, find  # noqa: E402 - it is found by the line above

IMAGE = "sbx/lambda-phage"
IN_CONTAINER = "/cluster_data_root"


def by_hand(root: Path, sample: str) -> None:
    """Run the tools without the pipeline."""
    engine = None if os.environ.get("SBX_RUNTIME") == "process" else find()
    script = HERE / "by_hand.sh"
    if engine is None:
        subprocess.run(["sh", script, root, sample], check=True, stderr=subprocess.DEVNULL)  # noqa: S603, S607 - no shell text
    else:
        mounts = {str(root): IN_CONTAINER, str(script): "/by_hand.sh"}
        engine.run(IMAGE, ["sh", "/by_hand.sh", IN_CONTAINER, sample], mounts)


def reads(path: Path) -> list[list[str]]:
    """Return every read with all its fields, as samtools lists them."""
    return [line.split("\t") for line in path.read_text().splitlines()]


def variants(path: Path) -> list[str]:
    """Return the called variants; the header names files and times, which differ."""
    return [line for line in path.read_text().splitlines() if not line.startswith("#")]


def first_difference(ours: list[str], theirs: list[str]) -> str:
    """Show where two lists part."""
    pairs = zip_longest(ours, theirs, fillvalue="(none)")
    mine, other = next(pair for pair in pairs if pair[0] != pair[1])
    return f"  pipeline: {mine}\n  by hand:  {other}"


def compare(what: str, ours: list[str], theirs: list[str]) -> bool:
    """Say whether two lists are equal, and where they are not."""
    same = bool(ours) and ours == theirs
    print(f"{what}: {len(ours)} the same" if same else f"{what}: DIFFERENT")
    if not same:
        print(first_difference(ours, theirs) if ours != theirs else "  both are empty")
    return same


def main() -> int:
    """Compare everything; 0 if all is the same."""
    root, sample = Path(sys.argv[1]).resolve(), sys.argv[2]
    by_hand(root, sample)
    ours, theirs = (reads(root / f"by-hand/{name}.txt") for name in ("reads-of-pipeline", "reads"))
    flagstat = [(root / d / f"{sample}.flagstat").read_text().splitlines() for d in DIRECTORIES]
    called = [variants(root / d / f"{sample}.vcf") for d in DIRECTORIES]
    checks = [
        # Reads at one position have no order of their own, so they are compared sorted.
        compare("reads", *(sorted("\t".join(read) for read in side) for side in (ours, theirs))),
        compare(
            "positions in order", *([f"{r[2]}:{r[3]}" for r in side] for side in (ours, theirs))
        ),
        compare("lines of flagstat", *flagstat),
        compare("variants", *called),
    ]
    return 0 if all(checks) else 1


DIRECTORIES = ("result", "by-hand")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (EngineError, OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"check: {error}")
