#!/usr/bin/env python3
"""split.py N HEADERS: cut [2, N] into parts and send each on to be counted.

The header `_parts` says how many there are. A header whose name begins with `_` travels on to
every follow-on message by itself, so the counting module need not know of it.
"""

import json
import os
import sys
from itertools import pairwise
from pathlib import Path

PARTS = 16


def cut(last: int, parts: int) -> list[tuple[int, int]]:
    """Return the bounds `(low, high)`, both included, of about equal parts of [2, last]."""
    total = max(last - 1, 0)
    parts = max(min(parts, total), 1)
    edges = [2 + total * i // parts for i in range(parts + 1)]
    return [(low, after - 1) for low, after in pairwise(edges)]


def main() -> None:
    """Write one line per part."""
    parts = cut(int(sys.argv[1]), PARTS)
    with Path(os.environ["WORK_DIR"], "sink-tasks.jsonl").open("w") as sink:
        for low, high in parts:
            line = {"body": f"{low} {high}", "headers": {"_parts": str(len(parts))}}
            print(json.dumps(line), file=sink)


if __name__ == "__main__":
    main()
