#!/usr/bin/env python3
"""count.py "LOW HIGH" HEADERS: count the primes from LOW to HIGH, both included."""

import json
import os
import sys
from math import isqrt
from pathlib import Path


def is_prime(number: int) -> bool:
    """Whether a number is prime, by trial division: work that keeps a core busy."""
    if number % 2 == 0 or number < 2:  # noqa: PLR2004 - the one even prime
        return number == 2  # noqa: PLR2004 - the one even prime
    return all(number % divisor for divisor in range(3, isqrt(number) + 1, 2))


def main() -> None:
    """Write the count as one follow-on message."""
    low, high = map(int, sys.argv[1].split())
    count = sum(map(is_prime, range(low, high + 1)))
    Path(os.environ["WORK_DIR"], "sink-tasks.jsonl").write_text(
        json.dumps({"body": str(count)}) + "\n"
    )


if __name__ == "__main__":
    main()
