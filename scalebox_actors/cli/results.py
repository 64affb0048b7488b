"""`sbx-actor results`: what modules without sinks emitted, until somebody takes it."""

import asyncio

import click
import msgspec

from scalebox_actors.cli import output
from scalebox_actors.cli.options import Common, reaching
from scalebox_actors.cli.session import opened, wanted
from scalebox_actors.cli.show import text_of
from scalebox_actors.cli.stored import result_fields
from scalebox_actors.cli.topologies import check_module
from scalebox_actors.local import Site
from scalebox_actors.ports import Stored

FOLLOW_EVERY = 0.5


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be printed, and what becomes of it."""

    topology: str
    module: str | None = None
    take: bool = False
    limit: int | None = None
    follow: bool = False


@click.command()
@click.argument("topology")
@click.option("--module", help="Only results of this module.")
@click.option("--take", is_flag=True, help="Remove each page of results once it is printed.")
@click.option("--limit", type=click.IntRange(1), help="Print so many at most.")
@click.option("--follow", is_flag=True, help="Go on printing what comes, until Ctrl-C.")
@reaching
def results(common: Common, /, **given: object) -> None:
    """Print the results of TOPOLOGY, one per line, oldest first.

    They are kept at the site of the module that emitted them; with --nats those of that site are
    printed. What is not printable in a result is escaped; `--json` has the body without loss. With
    `--take` a result is removed after it was written; one that was not is there the next time. What
    a pipe has taken was written: for a few, say `--limit` and not `| head`.

    \b
    sbx-actor results primes --take --limit 10
    sbx-actor results primes --take --json > results.jsonl
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    wishes = msgspec.convert(given, Wishes)
    asyncio.run(_results(common, wishes))


async def _results(common: Common, wishes: Wishes) -> None:
    async with opened(common, wanted(wishes.topology)) as session:
        if wishes.module is not None:
            check_module(session.topology, wishes.module)
        starts, left = dict.fromkeys(session.near, 1), wishes.limit
        while True:
            for name, site in session.near.items():
                printed, starts[name] = await _print(common, site, wishes, starts[name], left)
                left = None if left is None else left - printed
            if left == 0 or not wishes.follow:
                return
            await asyncio.sleep(FOLLOW_EVERY)
            output.check_reader()


async def _print(
    common: Common, site: Site, wishes: Wishes, start: int, most: int | None
) -> tuple[int, int]:
    """Print results from a sequence on; returns how many, and where the next ones begin."""
    admin, pattern = site.admin, site.names.result(wishes.module or "*")
    printed = 0
    if wishes.take:
        pages = admin.take(pattern, most=most)
    else:
        pages = admin.messages(pattern, start=start, most=most)
    async for page in pages:
        for stored in page:
            _write(common, stored)
        # Before the next page is asked for: that is what removes this one with `--take`.
        output.flush()
        printed, start = printed + len(page), page[-1].sequence + 1
    return printed, start


def _write(common: Common, stored: Stored) -> None:
    if common.json:
        output.record(result_fields(stored))
    else:
        output.line(text_of(stored.body))
