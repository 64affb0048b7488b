"""`sbx-actor pause` and `resume`: whether modules get messages, on every node."""

import asyncio
from collections.abc import Callable

import click

from scalebox_actors.cli import output
from scalebox_actors.cli.everywhere import ask, several
from scalebox_actors.cli.options import Common, reaching
from scalebox_actors.cli.records import seconds
from scalebox_actors.cli.session import opened, wanted
from scalebox_actors.cli.show import moment
from scalebox_actors.cli.topologies import check_module
from scalebox_actors.questions import Changed, Op, Question

FOR_GOOD = "3650d"


@click.command()
@click.argument("topology")
@click.argument("modules", metavar="[MODULE]...", nargs=-1)
@click.option("--for", "how_long", default=FOR_GOOD, metavar="TIME",
              help="How long; until `resume` if not given.")  # fmt: skip
@reaching
def pause(common: Common, topology: str, modules: tuple[str, ...], how_long: str) -> None:
    """Let MODULEs of TOPOLOGY, or all of them, take no more messages; what runs goes on.

    \b
    sbx-actor pause primes count --for 30m
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    how_many = 10 * 365 * 86_400.0 if how_long == FOR_GOOD else seconds(how_long)

    question = Question(op=Op.PAUSE, modules=modules, seconds=how_many)

    def told(one: Changed) -> str:
        return f"paused until {'`resume`' if how_long == FOR_GOOD else moment(one.paused_until)}"

    _everywhere(common, topology, question, told)


@click.command()
@click.argument("topology")
@click.argument("modules", metavar="[MODULE]...", nargs=-1)
@reaching
def resume(common: Common, topology: str, modules: tuple[str, ...]) -> None:
    """Let paused MODULEs of TOPOLOGY, or all of them, take messages again.

    \b
    sbx-actor resume primes count
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    question = Question(op=Op.RESUME, modules=modules)
    _everywhere(common, topology, question, lambda _: "not paused")


def _everywhere(
    common: Common, topology: str, question: Question, told: Callable[[Changed], str]
) -> None:
    want = wanted(topology)

    async def work() -> None:
        async with opened(common, want) as session:
            for module in question.modules:
                check_module(session.topology, module)
            async for site, page in ask(session, question):
                for one in page.changed:
                    _tell(common, one, site if several(session) else "", told(one))

    asyncio.run(work())


def _tell(common: Common, one: Changed, site: str, words: str) -> None:
    if common.json:
        where = {"site": site} if site else {}
        output.record({"module": one.module, "paused_until": one.paused_until, **where})
    else:
        output.line(f"{one.module}{f'@{site}' if site else ''}: {words}")
