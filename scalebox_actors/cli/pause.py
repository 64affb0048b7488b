"""`sbx-actor pause` and `resume`: whether modules get messages, on every node."""

import asyncio
from collections.abc import Awaitable, Callable

import click

from scalebox_actors.cli import output
from scalebox_actors.cli.options import Common, reaching
from scalebox_actors.cli.records import seconds
from scalebox_actors.cli.session import Session, opened, wanted
from scalebox_actors.cli.show import moment
from scalebox_actors.cli.topologies import check_module

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

    async def one(session: Session, module: str) -> None:
        until = await session.site.admin.pause(module, how_many)
        if common.json:
            output.record({"module": module, "paused_until": until})
        else:
            when = "`resume`" if how_long == FOR_GOOD else moment(until)
            output.line(f"{module}: paused until {when}")

    _each(common, topology, modules, one)


@click.command()
@click.argument("topology")
@click.argument("modules", metavar="[MODULE]...", nargs=-1)
@reaching
def resume(common: Common, topology: str, modules: tuple[str, ...]) -> None:
    """Let paused MODULEs of TOPOLOGY, or all of them, take messages again.

    \b
    sbx-actor resume primes count
    """  # noqa: D301 - click's mark for text that is not to be wrapped

    async def one(session: Session, module: str) -> None:
        await session.site.admin.resume(module)
        if common.json:
            output.record({"module": module, "paused_until": 0})
        else:
            output.line(f"{module}: not paused")

    _each(common, topology, modules, one)


def _each(
    common: Common,
    topology: str,
    modules: tuple[str, ...],
    one: Callable[[Session, str], Awaitable[None]],
) -> None:
    want = wanted(topology)

    async def work() -> None:
        async with opened(common, want) as session:
            for module in modules:
                check_module(session.topology, module)
            for module in modules or tuple(session.topology.modules):
                await one(session, module)

    asyncio.run(work())
