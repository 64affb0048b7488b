"""What a run in a slot has left running, where programs have no pid namespace of their own.

In a container the slot's agent ends everything but itself (slot_agent.sh). A plain process cannot;
but what outlived its parent has become a child of whoever looks after the agent, and still carries
the mark of its slot in its environment.
"""

import asyncio
import os
import signal

MARK = b"SBX_RUN="
"""What a runtime without containers gives every program, and a program to its descendants."""
PAUSE = 0.005
ROUNDS = 400


async def end_stragglers(agent: int, mark: bytes) -> bool:
    """Kill what runs of an agent have left; False if something does not go away."""
    for _ in range(ROUNDS):
        found = leftovers(agent, mark)
        if not found:
            return True
        for pid in found:
            _kill(pid, mark)
        await asyncio.sleep(PAUSE)  # its own children are seen once it has gone
    return False


def mark_of(pid: int) -> bytes:
    """Return the mark that a process was started with, or nothing."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123 - asked for every message
            entries = file.read().split(b"\0")
    except OSError:
        return b""
    return next((entry for entry in entries if entry.startswith(MARK)), b"")


def leftovers(agent: int, mark: bytes) -> list[int]:
    """Return the processes that carry the mark of an agent and have lost their parent."""
    parent = _parent(agent)
    return [pid for pid in _children(parent) if pid != agent and mark and mark_of(pid) == mark]


def _kill(pid: int, mark: bytes) -> None:
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if mark_of(pid) == mark:  # asked while we hold it: the number cannot be another's by now
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
