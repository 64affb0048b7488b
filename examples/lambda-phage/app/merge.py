#!/usr/bin/env python3
"""merge.py JOINED HEADERS: merge the sorted chunks of a sample when all of them are there.

`gather:` delivers one message that lists the chunks:
{"group": …, "count": …, "members": [name, …]}.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def samtools(*arguments: object) -> None:
    """Run samtools, and fail with it."""
    subprocess.run(["samtools", *map(str, arguments)], check=True)  # noqa: S603, S607 - no shell


def main() -> None:
    """Merge and index, then send the sample's name on to both readers."""
    chunks = sorted(json.loads(sys.argv[1])["members"])
    sample = chunks[0].rpartition("-")[0]
    root = Path(os.environ["CLUSTER_DATA_ROOT"])
    with tempfile.TemporaryDirectory(dir=root / "work") as folder:
        merged = Path(folder, "merged.bam")
        samtools("merge", "-o", merged, *(root / f"work/{chunk}.bam" for chunk in chunks))
        samtools("index", merged)
        Path(f"{merged}.bai").rename(root / f"result/{sample}.bam.bai")
        merged.rename(root / f"result/{sample}.bam")
    with Path(os.environ["WORK_DIR"], "sink-tasks.jsonl").open("w") as sink:
        for module in ("flagstat", "call"):
            print(json.dumps({"module": module, "body": sample}), file=sink)


if __name__ == "__main__":
    main()
