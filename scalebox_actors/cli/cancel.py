"""`sbx-actor cancel`: messages that shall not be run, or not to their end."""

import asyncio

import click

from scalebox_actors.cli import output
from scalebox_actors.cli.everywhere import ask, several
from scalebox_actors.cli.options import Common, reaching
from scalebox_actors.cli.session import Session, opened, wanted
from scalebox_actors.cli.show import plural
from scalebox_actors.cli.topologies import check_module
from scalebox_actors.errors import SbxError
from scalebox_actors.operations import Selection
from scalebox_actors.questions import Op, Question


@click.command()
@click.argument("topology")
@click.argument("message_id", metavar="[ID]", required=False)
@click.option("--module", help="Every message of this module.")
@click.option("--root", metavar="ID", help="Every message that came from this one.")
@reaching
def cancel(
    common: Common, topology: str, message_id: str | None, module: str | None, root: str | None
) -> None:
    """Cancel messages of TOPOLOGY that wait or run: ID, a --module's, or those with a --root.

    Waiting ones are not run any more, running ones are ended and send nothing. Given together,
    the three narrow each other.

    \b
    sbx-actor cancel primes ftzqhm4ubqvsxrjbmwvo5kp2ta
    sbx-actor cancel primes --root ftzqhm4ubqvsxrjbmwvo5kp2ta
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    if not (message_id or module or root):
        raise click.UsageError("give ID, --module or --root")
    chosen = Selection(id=message_id or "", module=module or "", root=root or "")
    want = wanted(topology)

    async def work() -> int:
        async with opened(common, want) as session:
            if chosen.module:
                check_module(session.topology, chosen.module)
            return await _cancel(common, session, chosen)

    count = asyncio.run(work())
    if count == 0 and message_id:
        raise SbxError(f"no message {message_id} waits or runs")
    if not common.json:
        output.line(f"{plural(count, 'message')} cancelled")


async def _cancel(common: Common, session: Session, chosen: Selection) -> int:
    count = 0
    async for site, page in ask(session, Question(op=Op.CANCEL, chosen=chosen)):
        count += len(page.changed)
        for one in page.changed if common.json else ():
            where = {"site": site} if several(session) else {}
            output.record({"module": one.module, "id": one.id, **where})
    return count
