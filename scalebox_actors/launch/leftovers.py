"""What a run in a slot has left running, where programs have no pid namespace of their own.

In a container the slot's agent ends everything but itself (slot_agent.sh). A plain process cannot;
but what outlived its parent has become a child of whoever looks after the agent, and still carries
the mark of its slot in its environment.
"""

import asyncio
import os
import signal
from pathlib import Path

MARK = b"SBX_RUN="
PAUSE = 0.005
ROUNDS = 400


async def end_leftovers(agent: int, name: str) -> bool:
    """Kill what runs of the slot `name` have left; False if something does not go away."""
    for _ in range(ROUNDS):
        found = leftovers(agent, name)
        if not found:
            return True
        for pid in found:
            _kill(pid, name)
        await asyncio.sleep(PAUSE)  # its own children are seen once it has gone
    return False


def leftovers(agent: int, name: str) -> list[int]:
    """Return the processes that carry the mark of a slot and have lost their parent."""
    parent = _parent(agent)
    return [pid for pid in _children(parent) if pid != agent and _marked(pid, name)]


def _kill(pid: int, name: str) -> None:
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if _marked(pid, name):  # asked while we hold it: the number cannot be another's by now
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    except OSError:
        pass
    finally:
        os.close(handle)


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - asked for every message
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def _children(pid: int) -> list[int]:
    """Return the children of a process that has one thread, as whoever keeps agents has."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:  # noqa: PTH123
            return [int(word) for word in file.read().split()]
    except (OSError, ValueError):
        return []


def _marked(pid: int, name: str) -> bool:
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    end = b"/" + name.encode()
    return any(e.startswith(MARK) and e.endswith(end) for e in entries)
