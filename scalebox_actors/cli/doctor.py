"""`sbx-actor doctor`: what this host and its engine could do better, how, and what it brings."""

import asyncio
import io
import sys
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from scalebox_actors.advice import Advice, Level, advise, usable
from scalebox_actors.cli import output
from scalebox_actors.cli.host import IN_MEMORY
from scalebox_actors.cli.memory import memory_place
from scalebox_actors.cli.options import Common, common, images_option, stores_root
from scalebox_actors.cli.show import escaped, plural
from scalebox_actors.errors import Unavailable
from scalebox_actors.facts import Facts
from scalebox_actors.runtimes.choose import KINDS
from scalebox_actors.survey import survey

WIDTH = 80
"""Of what is not written to a terminal, which has a width of its own."""

_COLOURS = {Level.OK: "green", Level.COULD: "cyan", Level.SHOULD: "yellow", Level.BAD: "red"}


@click.command()
@click.option("--runtime", type=click.Choice(KINDS), envvar="SBX_RUNTIME",
              help="Which runtime the node is to use.  [env SBX_RUNTIME]")  # fmt: skip
@images_option
@click.option("--work", metavar="DIR", envvar="SBX_WORK",
              help="Where work directories are made, or `memory`.  [env SBX_WORK]")  # fmt: skip
@click.option("--store", metavar="DIR", envvar="SBX_STORE",
              help="The folder of the embedded server.  [env SBX_STORE]")  # fmt: skip
@common
def doctor(common: Common, /, runtime: str | None, image_store: Path, work: str | None) -> None:
    """Say how well this host and its container engine suit a node.

    Looks at the engine and its settings, disks, cgroups, clock, limits and versions, and says what
    would be better and what that brings. Nothing is changed. Exit code 0: a node could work here,
    69: it could not, and `bad` says why.

    \b
    sbx-actor doctor
    sbx-actor doctor --runtime oci --json
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    store = Path(common.store) if common.store else stores_root()
    facts = asyncio.run(survey(runtime, _work(work, store), store, image_store))
    advice = advise(facts)
    if common.json:
        output.record(fields(facts, advice))
    elif sys.stdout is not None and sys.stdout.isatty():
        Console(markup=False, highlight=False).print(drawn(advice))
    else:
        output.lines("\n".join(lines_of(advice)))
    bad = [one for one in advice if one.level is Level.BAD]
    if bad:
        raise Unavailable(f"no node could work here: {plural(len(bad), 'thing')} to be mended")


def _work(work: str | None, store: Path) -> Path:
    """Return where a node would make its work directories; makes none."""
    if work == IN_MEMORY:
        return memory_place(store)
    return Path(work) if work else store / "work"


def fields(facts: Facts, advice: list[Advice]) -> dict[str, object]:
    """Return the whole as one record."""
    return {
        "usable": usable(advice),
        "advice": msgspec.to_builtins(advice),
        "facts": msgspec.to_builtins(facts),
    }


def lines_of(advice: list[Advice], width: int = WIDTH) -> list[str]:
    """Return what was found as plain lines, none of them longer than `width`."""
    page = io.StringIO()
    console = Console(file=page, width=width, color_system=None, markup=False, highlight=False)
    console.print(drawn(advice))
    return [line.rstrip() for line in page.getvalue().splitlines()]


def drawn(advice: list[Advice]) -> Table:
    """Return what was found, below it what is better and what that brings, each text wrapped."""
    drawing = Table.grid(padding=(0, 2), pad_edge=False)
    drawing.add_column(no_wrap=True)
    drawing.add_column(no_wrap=True)
    drawing.add_column(overflow="fold")
    for one in advice:
        style = "dim" if one.level is Level.OK else ""
        level = Text(one.level.value, style=_COLOURS[one.level])
        drawing.add_row(level, Text(one.topic, style=style), Text(escaped(one.found), style=style))
        for name, text in (("better", one.advice), ("brings", one.gain)):
            if text:
                drawing.add_row("", Text(f"  {name}", style="dim"), Text(escaped(text)))
    return drawing
