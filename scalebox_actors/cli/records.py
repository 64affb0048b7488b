"""Reading the trace stream: the run records that a selection wants."""

from collections.abc import AsyncIterator

import click

from scalebox_actors.cli.everywhere import ask
from scalebox_actors.cli.session import Session
from scalebox_actors.errors import BadInput, SbxError
from scalebox_actors.limits import TRACE_LIFE
from scalebox_actors.operations import Selection
from scalebox_actors.questions import Op, Question
from scalebox_actors.records import RunRecord
from scalebox_actors.topology.quantity import parse_duration


async def run_records(
    session: Session, since: float, message_id: str = ""
) -> AsyncIterator[RunRecord]:
    """Give the run records of the last `since` seconds, site by site, oldest first."""
    question = Question(op=Op.RUNS, seconds=since, chosen=Selection(id=message_id))
    async for _, page in ask(session, question):
        for record in page.runs:
            yield record


def no_run(what: str, since: str) -> SbxError:
    """Return the error that there is no record of something."""
    return SbxError(f"no run of {what} in the last {since}; --since looks further back")


def seconds(text: str) -> float:
    """Read `90s`, `10m`, `1h30m`, `2d`; raises BadInput for anything else."""
    found = parse_duration(text)
    if found is None or found <= 0:
        raise BadInput(f"{text[:80]!r} is not a duration like 90s, 10m or 1h30m")
    return min(float(found), 10 * TRACE_LIFE)


since_option = click.option(
    "--since", default="1h", show_default=True, metavar="TIME", help="How far to look back."
)
