#!/usr/bin/env python3
"""split.py "SAMPLE CHUNKS" HEADERS: cut the sample's FASTQ pair into chunks of whole read pairs.

Messages carry names, data goes by path: chunk `phage-003` is `work/phage-003_1.fq` and `…_2.fq`
below the data root. The header `_chunks` says how many there are and travels on by itself.
"""

import json
import os
import sys
import tempfile
from itertools import islice
from pathlib import Path

LINES_PER_READ = 4


def cut(reads: Path, targets: list[Path]) -> None:
    """Spread the reads of one file evenly over the targets, in order."""
    with reads.open() as source:
        total = sum(1 for _ in source) // LINES_PER_READ
        source.seek(0)
        for number, target in enumerate(targets):
            until, since = total * (number + 1) // len(targets), total * number // len(targets)
            write(target, "".join(islice(source, (until - since) * LINES_PER_READ)))


def write(target: Path, text: str) -> None:
    """Write a file whole or not at all: a repeated or interrupted run leaves no half of one."""
    with tempfile.NamedTemporaryFile("w", dir=target.parent, delete=False) as part:
        part.write(text)
    Path(part.name).chmod(0o644)
    Path(part.name).rename(target)


def main() -> None:
    """Write the chunks, then one line per chunk."""
    sample, chunks = sys.argv[1].split()
    root = Path(os.environ["CLUSTER_DATA_ROOT"])
    names = [f"{sample}-{number:03}" for number in range(int(chunks))]
    for mate in (1, 2):
        cut(root / f"reads/{sample}_{mate}.fq", [root / f"work/{n}_{mate}.fq" for n in names])
    with Path(os.environ["WORK_DIR"], "sink-tasks.jsonl").open("w") as sink:
        for name in names:
            print(json.dumps({"body": name, "headers": {"_chunks": chunks}}), file=sink)


if __name__ == "__main__":
    main()
