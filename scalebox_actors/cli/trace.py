"""`sbx-actor trace`: what ran, as trees of lineage."""

import asyncio

import click

from scalebox_actors.cli import output
from scalebox_actors.cli.lineage import drawn, trees
from scalebox_actors.cli.options import Common, reaching
from scalebox_actors.cli.records import no_run, run_records, seconds, since_option
from scalebox_actors.cli.session import opened, wanted
from scalebox_actors.cli.topologies import check_module
from scalebox_actors.records import RunRecord


@click.command()
@click.argument("topology")
@click.argument("message_id", metavar="[ID]", required=False)
@click.option("--root", metavar="ID", help="Only what came from this message.")
@click.option("--module", help="Only runs of this module.")
@since_option
@reaching
def trace(
    common: Common,
    topology: str,
    message_id: str | None,
    root: str | None,
    module: str | None,
    since: str,
) -> None:
    """Show the runs of TOPOLOGY as trees: a message, and below it those that came from it.

    With ID: the whole tree that this message belongs to. `--json` prints the run records, one
    per line, with times, resources and outputs. Records are kept for 14 days.

    \b
    sbx-actor trace primes --since 10m
    sbx-actor trace primes ftzqhm4ubqvsxrjbmwvo5kp2ta
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    want = wanted(topology)
    back = seconds(since)

    async def work() -> None:
        async with opened(common, want) as session:
            if module is not None:
                check_module(session.topology, module)
            found = [record async for record in run_records(session, back)]
        chosen = choose(found, message_id=message_id, root=root, module=module)
        if not chosen and (message_id or root):
            raise no_run(message_id or root or "", since)
        _print(common, chosen)

    asyncio.run(work())


def choose(
    records: list[RunRecord], *, message_id: str | None, root: str | None, module: str | None
) -> list[RunRecord]:
    """Return the records that are meant; a message stands for its whole tree."""
    if message_id is not None:
        roots = {record.root or record.id for record in records if record.id == message_id}
        records = [record for record in records if (record.root or record.id) in roots]
    if root is not None:
        records = [record for record in records if (record.root or record.id) == root]
    if module is not None:
        records = [record for record in records if record.module == module]
    return records


def _print(common: Common, records: list[RunRecord]) -> None:
    if common.json:
        for record in records:
            output.record(record)
        return
    for top in trees(records):
        for line in drawn(top):
            output.line(line)
