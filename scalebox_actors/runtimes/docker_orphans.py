"""Processes of a container whose engine was killed while it started it, and forgot it."""

import os
import re
import signal
import time
from pathlib import Path

_ID = re.compile("[0-9a-f]{64}")


def end_processes(container: str, *, seconds: float = 5.0) -> bool:
    """Kill what runs in the cgroup of a container, by its whole id; False if that is denied."""
    if not _ID.fullmatch(container):
        return False
    end = time.monotonic() + seconds
    while pids := _processes(container):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            except PermissionError:
                return False
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def _processes(container: str) -> list[int]:
    found = []
    for place in Path("/proc").glob("[0-9]*/cgroup"):
        try:
            if container in place.read_text(encoding="utf-8", errors="replace"):
                found.append(int(place.parent.name))
        except OSError:
            continue  # it has ended meanwhile
    return found
