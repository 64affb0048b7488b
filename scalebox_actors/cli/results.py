"""`sbx-actor results`: what modules without sinks emitted, until somebody takes it."""

import asyncio

import click

from scalebox_actors.cli import output
from scalebox_actors.cli.options import Common, reaching
from scalebox_actors.cli.session import opened, wanted
from scalebox_actors.cli.show import text_of
from scalebox_actors.cli.stored import result_fields
from scalebox_actors.cli.topologies import check_module
from scalebox_actors.local import Site
from scalebox_actors.ports import Stored

FOLLOW_EVERY = 0.5


@click.command()
@click.argument("topology")
@click.option("--module", help="Only results of this module.")
@click.option("--take", is_flag=True, help="Remove each page of results once it is printed.")
@click.option("--follow", is_flag=True, help="Go on printing what comes, until Ctrl-C.")
@reaching
def results(common: Common, topology: str, module: str | None, take: bool, follow: bool) -> None:
    """Print the results of TOPOLOGY, one per line, oldest first.

    They are kept at the site of the module that emitted them; with --nats those of that site are
    printed. What is not printable in a result is escaped; `--json` has the body without loss. With
    `--take` a result is removed after it was written; one that was not is there the next time.

    \b
    sbx-actor results primes
    sbx-actor results primes --take --json > results.jsonl
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    want = wanted(topology)

    async def work() -> None:
        async with opened(common, want) as session:
            if module is not None:
                check_module(session.topology, module)
            starts = dict.fromkeys(session.near, 1)
            while True:
                for name, site in session.near.items():
                    pattern = site.names.result(module or "*")
                    start = starts[name]
                    starts[name] = await _print(common, site, pattern, start=start, take=take)
                if not follow:
                    return
                await asyncio.sleep(FOLLOW_EVERY)
                output.check_reader()

    asyncio.run(work())


async def _print(common: Common, site: Site, pattern: str, *, start: int, take: bool) -> int:
    """Print results from a sequence on; returns where the next ones begin."""
    admin = site.admin
    pages = admin.take(pattern) if take else admin.messages(pattern, start=start)
    async for page in pages:
        for stored in page:
            _write(common, stored)
        # Before the next page is asked for: that is what removes this one with `--take`.
        output.flush()
        start = page[-1].sequence + 1
    return start


def _write(common: Common, stored: Stored) -> None:
    if common.json:
        output.record(result_fields(stored))
    else:
        output.line(text_of(stored.body))
