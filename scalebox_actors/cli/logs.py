"""`sbx-actor logs`: what the runs of a message printed."""

import asyncio
from collections.abc import Iterator

import click

from scalebox_actors.cli import output
from scalebox_actors.cli.options import Common, reaching
from scalebox_actors.cli.records import no_run, run_records, seconds, since_option
from scalebox_actors.cli.session import opened, wanted
from scalebox_actors.cli.show import moment
from scalebox_actors.records import RunRecord


@click.command()
@click.argument("topology")
@click.argument("message_id", metavar="ID")
@click.option("--module", help="Only runs of this module.")
@since_option
@reaching
def logs(common: Common, topology: str, message_id: str, module: str | None, since: str) -> None:
    """Print what every run of the message ID of TOPOLOGY wrote to stdout and stderr.

    Each line is marked `out|` or `err|` (`aux|`: the file auxout.txt), so that a program can
    write no line that looks like another's.

    \b
    sbx-actor logs primes ftzqhm4ubqvsxrjbmwvo5kp2ta
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    want = wanted(topology)
    back = seconds(since)

    async def work() -> int:
        count = 0
        async with opened(common, want) as session:
            async for record in run_records(session, back, message_id):
                if record.id != message_id or module not in (None, record.module):
                    continue
                count += 1
                if common.json:
                    output.record(fields(record))
                    continue
                for line in lines_of(record):
                    output.line(line)
        return count

    if not asyncio.run(work()):
        raise no_run(message_id, since)


def lines_of(record: RunRecord) -> Iterator[str]:
    """Yield a heading and every line that the run printed, marked."""
    yield (
        f"# {record.module} {record.id} run {record.attempt} at {moment(record.started)} "
        f"on {record.node}: {record.verdict}, exit {record.exit_code}"
        + (" (cut)" if record.cut else "")
    )
    texts = (("out", record.stdout), ("err", record.stderr), ("aux", record.auxout))
    for mark, text in texts:
        for line in text.removesuffix("\n").split("\n") if text else ():
            yield f"{mark}| {line}"


def fields(record: RunRecord) -> dict[str, object]:
    """Return the part of a record that is about what was printed."""
    return {
        "module": record.module,
        "id": record.id,
        "attempt": record.attempt,
        "node": record.node,
        "verdict": record.verdict,
        "exit_code": record.exit_code,
        "stdout": record.stdout,
        "stderr": record.stderr,
        "auxout": record.auxout,
        "cut": record.cut,
    }
