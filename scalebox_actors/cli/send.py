"""`sbx-actor send`: give a module messages, each stored and synced to disk when this returns."""

import asyncio
import time
from collections.abc import Sequence

import click
import msgspec

from scalebox_actors.broker import JetStreamBroker
from scalebox_actors.cli import output
from scalebox_actors.cli.bodies import Splitter, file_body, stdin_chunks
from scalebox_actors.cli.options import Common, pair, parameterised, reaching, texts
from scalebox_actors.cli.sending import Sending, checked_headers, checked_id
from scalebox_actors.cli.session import Session, opened, wanted
from scalebox_actors.cli.show import duration, plural
from scalebox_actors.cli.topologies import check_module
from scalebox_actors.errors import BadInput, BadMessage, NotPermitted, SbxError
from scalebox_actors.message import MSG_ID
from scalebox_actors.ports import Entry

SAY_EVERY = 5.0
_STDIN = "-"


class Typed(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be sent, as it was typed."""

    module: str
    body: str | None
    file: str | None
    headers: dict[str, str]
    given_id: str

    @property
    def from_stdin(self) -> bool:
        """Whether there is a message on every line of standard input."""
        return self.body == _STDIN


@click.command()
@click.argument("topology")
@click.argument("module")
@click.argument("body", required=False)
@click.option("--file", metavar="FILE", help="Send this whole file as one body.")
@click.option("--header", "headers", metavar="K=V", multiple=True, help="A header; repeatable.")
@click.option("--id", "given", metavar="ID", help="The message's id; lines get ID-1, ID-2, …")
@parameterised
@reaching
def send(common: Common, /, **given: object) -> None:
    """Send messages to MODULE of TOPOLOGY, a YAML file or the name of a deployed one.

    BODY is the message; `-` takes one message per line from standard input and skips empty
    lines. Once the command returns, every message is on disk. A message whose id is known from
    the last half minute or from a finished task has no second effect.

    \b
    sbx-actor send primes split 100000
    seq 1000 1100 | sbx-actor send primes split -
    sbx-actor send primes split --file request.json --header priority=7
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    body, file = given["body"], given["file"]
    if (body is None) == (file is None):
        raise click.UsageError("give either BODY (`-`: lines of standard input) or --file")
    pairs = [pair(str(text), "--header") for text in texts(given["headers"])]
    typed = Typed(
        module=str(given["module"]),
        body=None if body is None else str(body),
        file=None if file is None else str(file),
        headers=checked_headers(pairs),
        given_id=checked_id(_optional(given["given"]), numbered=body == _STDIN),
    )
    want = wanted(str(given["topology"]), texts(given["sets"]), texts(given["env_files"]))
    if want.loaded is not None:
        check_module(want.loaded.topology, typed.module)

    async def work() -> None:
        async with opened(common, want, start=True) as session:
            await _send(common, session, typed)

    asyncio.run(work())


async def _send(common: Common, session: Session, typed: Typed) -> None:
    check_module(session.topology, typed.module)
    sending = Sending(
        names=session.names,
        topology=session.topology,
        module=typed.module,
        body_limit=session.broker.body_limit,
        headers=typed.headers,
        given_id=typed.given_id,
    )
    sender = Sender(session.broker, sending, tell_ids=common.json)
    target = f"{session.names.topology}/{typed.module}"
    try:
        if typed.from_stdin:
            await _send_lines(sending, sender)
        else:
            await sender.send([_checked(sending, _whole(typed, sending.body_limit))], [0])
    except SbxError:
        if sender.stored:  # what was sent before the bad line stays sent, so it is told
            sender.tell(target, by_record=common.json)
        raise
    sender.tell(target, by_record=common.json)


class Sender:
    """Stores batches, and counts what became of them."""

    def __init__(self, broker: JetStreamBroker, sending: Sending, *, tell_ids: bool) -> None:
        self.stored = 0
        self.repeated = 0
        self._broker = broker
        self._sending = sending
        self._tell_ids = tell_ids
        self._began = self._said = time.monotonic()

    async def send(self, entries: Sequence[Entry], numbers: Sequence[int]) -> None:
        """Store messages; raises SbxError naming the line of the first that is not taken."""
        if not entries:
            return
        packed = self._sending.packed(entries)
        injected = await self._broker.inject([entry for entry, _ in packed])
        self.stored += injected.stored
        self.repeated += injected.duplicates
        if injected.refused:
            place, reason = injected.refused[0]
            more = len(injected.refused) - 1
            rest = f" (and {more:,} more)" if more else ""
            number = numbers[packed[place][1]]
            kind = NotPermitted if injected.denied else SbxError
            raise kind(f"{_place(number)}not taken by the server: {reason}{rest}")
        if self._tell_ids:
            for entry, number in zip(entries, numbers, strict=True):
                line = {"line": number} if number else {}
                output.record({"id": entry.headers[MSG_ID], **line})
        self._report()

    def tell(self, target: str, *, by_record: bool) -> None:
        """Say how many were stored, and how quickly if there were many."""
        seconds = time.monotonic() - self._began
        if not by_record:
            output.line(f"sent {plural(self.stored, 'message')} to {target}")
        if self.repeated:
            output.say(f"{plural(self.repeated, 'message')} had been sent before")
        if self.stored > 1:
            rate = self.stored / max(seconds, 1e-6)
            output.say(f"{self.stored:,} in {duration(seconds)}, {rate:,.0f} messages/s")

    def _report(self) -> None:
        now = time.monotonic()
        if now - self._said >= SAY_EVERY:
            self._said = now
            output.say(f"sent {self.stored:,}, {self.stored / (now - self._began):,.0f}/s")


async def _send_lines(sending: Sending, sender: Sender) -> None:
    """Send what comes in as it comes; what precedes a bad line is sent before it is refused."""
    splitter = Splitter(sending.body_limit)
    entries: list[Entry] = []
    numbers: list[int] = []

    async def flush() -> None:
        await sender.send(entries, numbers)
        entries.clear()
        numbers.clear()

    try:
        async for chunk in stdin_chunks():
            for number, body in splitter.feed(chunk):
                entries.append(_checked(sending, body, number))
                numbers.append(number)
            await flush()
        for number, body in splitter.end():
            entries.append(_checked(sending, body, number))
            numbers.append(number)
    finally:
        await flush()


def _checked(sending: Sending, body: bytes, number: int = 0) -> Entry:
    try:
        return sending.entry(body, number)
    except BadMessage as error:
        raise BadInput(f"{_place(number)}{error}") from None


def _whole(typed: Typed, limit: int) -> bytes:
    if typed.file is not None:
        return file_body(typed.file, limit)
    # What the shell gave us, byte for byte, also where it was no UTF-8.
    return str(typed.body).encode("utf-8", "surrogateescape")


def _place(number: int) -> str:
    return f"line {number:,}: " if number else ""


def _optional(value: object) -> str | None:
    return None if value is None else str(value)
