"""`sbx-actor cancel`: messages that shall not be run, or not to their end."""

import asyncio

import click
import msgspec

from scalebox_actors.cli import output
from scalebox_actors.cli.everywhere import ask, several
from scalebox_actors.cli.options import Common, reaching
from scalebox_actors.cli.output import say
from scalebox_actors.cli.session import Session, opened, wanted
from scalebox_actors.cli.show import plural
from scalebox_actors.cli.topologies import check_module
from scalebox_actors.courier import SILENCE
from scalebox_actors.errors import SbxError, Transient
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

    async def work() -> Outcome:
        async with opened(common, want) as session:
            if chosen.module:
                check_module(session.topology, chosen.module)
            return await cancel_everywhere(common, session, chosen)

    outcome = asyncio.run(work())
    count, underway = len(outcome.cancelled), len(outcome.underway)
    if count == underway == 0 and message_id:
        raise SbxError(f"no message {message_id} waits or runs, or it was cancelled before")
    if not common.json:
        output.line(f"{plural(count, 'message')} cancelled")
    if underway:
        raise Transient(f"{plural(underway, 'message')} on the way to another site: cancel again")


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of messages, each as module and id."""

    cancelled: set[tuple[str, str]] = set()
    underway: set[tuple[str, str]] = set()
    """What could not be had at either end of its way."""


async def cancel_everywhere(common: Common, session: Session, chosen: Selection) -> Outcome:
    """Cancel at all sites, so that nothing is missed that goes from one to another meanwhile.

    What waits to be carried is taken back at every site first: whatever has left by then is where
    it is looked for after that. After `SILENCE` so is what was just being handed over, or it waits
    again where it was.
    """
    outcome = Outcome()
    if several(session):
        outcome = await _asked(common, session, Question(op=Op.RECALL, chosen=chosen), outcome)
    if outcome.underway:
        told = plural(len(outcome.underway), "message")
        say(f"{told} on the way to another site: looked for there in {SILENCE:g} s")
        await asyncio.sleep(SILENCE)
    return await _asked(common, session, Question(op=Op.CANCEL, chosen=chosen), outcome)


async def _asked(common: Common, session: Session, question: Question, before: Outcome) -> Outcome:
    """Ask every site, and add what is cancelled now to what was before."""
    cancelled, underway = set(before.cancelled), set[tuple[str, str]]()
    async for site, page in ask(session, question):
        underway |= {(one.module, one.id) for one in page.underway}
        for one in page.changed:
            if common.json and (one.module, one.id) not in cancelled:
                where = {"site": site} if several(session) else {}
                output.record({"module": one.module, "id": one.id, **where})
            cancelled.add((one.module, one.id))
    return Outcome(cancelled=cancelled, underway=underway - cancelled)
