"""Ctrl-C and SIGTERM while a node works: first gently, then at once."""

import asyncio
import signal
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager

from scalebox_actors.cli.output import say
from scalebox_actors.node import Node

TERMINATED = 128 + signal.SIGTERM
INTERRUPTED = 128 + signal.SIGINT


class Interrupts:
    """Counts the signals that came in and has the nodes do what each of them means."""

    def __init__(self, nodes: Sequence[Node], *, leave_runs: bool) -> None:
        self.exit_code = 0
        """What the program ends with if a signal ended it; 0 if none came."""
        self._nodes = nodes
        self._leave_runs = leave_runs
        self._came = 0
        self._doing: set[asyncio.Task[None]] = set()

    def interrupt(self) -> None:
        """Ctrl-C: drain; again: kill what runs; a third time: leave at once."""
        self._came += 1
        self.exit_code = INTERRUPTED
        if self._came == 1:
            say("draining: what runs is finished, what waits is kept; Ctrl-C again stops it")
            for node in self._nodes:
                self._do(node.drain())
        elif self._came == 2:  # noqa: PLR2004 - the second time
            say("stopping: runs in hand are ended; their messages are kept")
            for node in self._nodes:
                self._do(node.kill())
        else:
            raise KeyboardInterrupt

    def terminate(self) -> None:
        """SIGTERM: commit what is finished, leave running containers to the next node.

        Where nothing is kept there will be none to adopt them, so they are ended.
        """
        self.exit_code = TERMINATED
        for node in self._nodes:
            if self._leave_runs:
                node.stop()
            else:
                self._do(node.kill())

    def _do(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._doing.add(task)
        task.add_done_callback(self._doing.discard)


@contextmanager
def minded(*nodes: Node, leave_runs: bool = True) -> Iterator[Interrupts]:
    """Turn signals into calls of the nodes as long as the context lasts."""
    interrupts = Interrupts(nodes, leave_runs=leave_runs)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, interrupts.interrupt)
    loop.add_signal_handler(signal.SIGTERM, interrupts.terminate)
    try:
        yield interrupts
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        loop.remove_signal_handler(signal.SIGTERM)
