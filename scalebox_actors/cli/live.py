"""Progress as it happens: a table that stays in place on a terminal, lines in a pipe."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from scalebox_actors.cli.output import is_terminal, say
from scalebox_actors.cli.progress import Pace, Pacer, cells, headline, plain
from scalebox_actors.cli.show import escaped
from scalebox_actors.local import ModuleView

LINE_EVERY = 5.0
_HEADER = ("module", "waiting", "running", "done", "failed", "retried", "")


class Progress:
    """Shows how a run goes, from its first view until it is left."""

    def __init__(self, topology: str) -> None:
        self._topology = topology
        self._pacer = Pacer(time.monotonic())
        self._live: Live | None = None
        self._last = ""
        self._due = 0.0

    def __enter__(self) -> Self:
        self._due = time.monotonic() + LINE_EVERY
        if is_terminal():
            console = Console(stderr=True, markup=False, highlight=False)
            # What others write to stderr meanwhile goes above the table; stdout is records.
            self._live = Live(console=console, auto_refresh=False, redirect_stdout=False)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()  # gives the cursor back, whatever happened

    def see(self, views: Sequence[ModuleView]) -> None:
        """Show how every module stands now."""
        now = time.monotonic()
        pace = self._pacer.see(views, now)
        if self._live is not None:
            self._live.update(self._table(views, pace), refresh=True)
        elif now >= self._due:
            self._due = now + LINE_EVERY
            say(f"{self._topology}: {plain(views, pace)}")

    def _table(self, views: Sequence[ModuleView], pace: Pace) -> Table:
        table = Table(box=None, pad_edge=False, caption=headline(pace), caption_justify="left")
        for title in _HEADER:
            right = title not in ("module", "")
            table.add_column(title, justify="right" if right else "left", no_wrap=True)
        for view in views:
            style = "red" if view.dead or view.suspended else ""
            table.add_row(*(Text(escaped(cell), style=style) for cell in cells(view)))
        return table
