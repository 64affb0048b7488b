"""`sbx-actor dead`: what was set aside, and what is to become of it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from typing import Concatenate, ParamSpec

import click

from scalebox_actors import operations
from scalebox_actors.cli import output
from scalebox_actors.cli.everywhere import ask
from scalebox_actors.cli.options import Common, reaching
from scalebox_actors.cli.session import Session, opened, wanted
from scalebox_actors.cli.show import moment, plural, shortened
from scalebox_actors.cli.stored import letter_fields
from scalebox_actors.cli.topologies import check_module
from scalebox_actors.errors import SbxError
from scalebox_actors.names import check_name
from scalebox_actors.operations import Selection
from scalebox_actors.policy import Reason
from scalebox_actors.ports import Stored
from scalebox_actors.questions import Op, Question

P = ParamSpec("P")
Command = Callable[..., None]
DETAIL_SHOWN = 60
REASONS = click.Choice([str(reason) for reason in Reason])


def _choosing(function: Callable[Concatenate[Common, P], None]) -> Command:
    """Give a command what `retry` and `drop` choose letters by."""
    command = reaching(function)
    for part in reversed(_CHOICE):
        command = part(command)
    return command


_CHOICE: tuple[Callable[[Command], Command], ...] = (
    click.argument("topology"),
    click.argument("message_ids", metavar="[ID]...", nargs=-1),
    click.option("--all", "everything", is_flag=True,
                 help="All letters, or all that are narrowed to."),
    click.option("--module", help="Only letters of this module."),
    click.option("--reason", type=REASONS, help="Only letters with this reason."),
)  # fmt: skip


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def dead() -> None:
    """List, show, retry or drop dead letters: tasks that failed for good.

    \b
    sbx-actor dead list primes
    sbx-actor dead retry primes --all --reason exhausted
    """  # noqa: D301 - click's mark for text that is not to be wrapped


@dead.command("list")
@click.argument("topology")
@click.option("--module", help="Only letters of this module.")
@click.option("--reason", type=REASONS, help="Only letters with this reason.")
@reaching
def list_(common: Common, topology: str, module: str | None, reason: str | None) -> None:
    """List the dead letters of TOPOLOGY, one per line, oldest first.

    \b
    sbx-actor dead list primes --module count
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    chosen = Selection(module=module or "", reason=reason or "")

    async def work(session: Session) -> None:
        async for stored in _letters(session, chosen):
            letter = letter_fields(stored)
            if common.json:
                output.record(letter)
            else:
                why = shortened(str(letter["detail"]), DETAIL_SHOWN)
                words = (moment(stored.time), letter["module"], letter["id"], letter["reason"])
                output.line("  ".join([*map(str, words), why]))

    _within(common, topology, chosen, work)


@dead.command("show")
@click.argument("topology")
@click.argument("message_id", metavar="ID")
@click.option("--module", help="If tasks of several modules have this id.")
@reaching
def show(common: Common, topology: str, message_id: str, module: str | None) -> None:
    """Show the dead letter ID of TOPOLOGY: why it was buried, headers, body, last output.

    \b
    sbx-actor dead show primes ftzqhm4ubqvsxrjbmwvo5kp2ta
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    chosen = Selection(id=message_id, module=module or "")

    async def work(session: Session) -> None:
        found = [stored async for stored in _letters(session, chosen)]
        if not found:
            raise SbxError(f"there is no dead letter {message_id}")
        for stored in found:
            letter = letter_fields(stored)
            if common.json:
                output.record(letter)
                continue
            for line in _lines(letter | {"time": moment(stored.time)}):
                output.line(line)

    _within(common, topology, chosen, work)


def _lines(letter: Mapping[str, object]) -> Iterator[str]:
    """Yield a letter for people: a field to a line, what has several lines or fields below it."""
    for name, value in letter.items():
        if isinstance(value, Mapping):
            yield f"{name}:"
            yield from (f"  {key}: {text}" for key, text in value.items())
        elif "\n" in (text := str(value)):
            yield f"{name}:"
            yield from (f"  {line}" for line in text.splitlines())
        else:
            yield f"{name}: {text}"


@dead.command("retry")
@_choosing
def retry(common: Common, /, **given: object) -> None:
    """Send dead letters of TOPOLOGY again, as new tasks; their letters are removed.

    \b
    sbx-actor dead retry primes ftzqhm4ubqvsxrjbmwvo5kp2ta
    sbx-actor dead retry primes --all --module count
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    _for_each(common, given, Op.RETRY, "sent again")


@dead.command("drop")
@_choosing
def drop(common: Common, /, **given: object) -> None:
    """Remove dead letters of TOPOLOGY for good.

    \b
    sbx-actor dead drop primes ftzqhm4ubqvsxrjbmwvo5kp2ta
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    _for_each(common, given, Op.DROP, "dropped")


@dead.command("bury")
@click.argument("topology")
@click.argument("module")
@reaching
def bury(common: Common, topology: str, module: str) -> None:
    """Set aside all messages of TOPOLOGY that wait for MODULE, also if it is in no file any more.

    \b
    sbx-actor dead bury primes count
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    check_name("module", module)

    async def work(session: Session) -> None:
        count = await operations.bury_waiting(
            session.site, session.broker, session.topology, module
        )
        if common.json:
            output.record({"module": module, "buried": count})
        else:
            output.line(f"{plural(count, 'message')} set aside")

    _within(common, topology, Selection(), work)


async def _letters(session: Session, chosen: Selection) -> AsyncIterator[Stored]:
    async for _, page in ask(session, Question(op=Op.LETTERS, chosen=chosen)):
        for stored in page.letters:
            yield stored


def _for_each(common: Common, given: dict[str, object], op: Op, word: str) -> None:
    """Do `one` to every letter that is meant, and say how many there were."""
    ids = given["message_ids"] if isinstance(given["message_ids"], tuple) else ()
    module, reason = str(given["module"] or ""), str(given["reason"] or "")
    if bool(ids) == bool(given["everything"]):
        raise click.UsageError("give the ids of letters, or --all")
    chosen = [Selection(id=str(i), module=module, reason=reason) for i in ids] or [
        Selection(module=module, reason=reason)
    ]

    async def work(session: Session) -> None:
        count, failed, unknown = 0, 0, list[str]()
        for selection in chosen:
            before = count + failed
            async for _, page in ask(session, Question(op=op, chosen=selection)):
                count, failed = count + len(page.changed), failed + len(page.failed)
                for one in page.failed:
                    output.say(f"{one.module} {one.id} is not {word}: {one.error}")
                for one in page.changed if common.json else ():
                    told = {"new_id": one.new_id} if one.new_id else {}
                    output.record({"module": one.module, "id": one.id, **told})
            if selection.id and count + failed == before:
                unknown.append(selection.id)
        if not common.json and (count or not unknown):
            output.line(f"{plural(count, 'dead letter')} {word}")
        faults = [f"{plural(failed, 'dead letter')} not {word}"] if failed else []
        faults += [f"there is no dead letter {', '.join(unknown)}"] if unknown else []
        if faults:
            raise SbxError("; ".join(faults))

    _within(common, str(given["topology"]), chosen[0], work)


def _within(
    common: Common,
    topology: str,
    chosen: Selection,
    work: Callable[[Session], Coroutine[None, None, None]],
) -> None:
    want = wanted(topology)

    async def run() -> None:
        async with opened(common, want) as session:
            if chosen.module:
                check_module(session.topology, chosen.module)
            await work(session)

    asyncio.run(run())
