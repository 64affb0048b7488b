"""The clerk of a site: answers for it what people at any site ask, and does what they want done.

A command at one site asks the clerk of every site. Its own it asks directly; the others, one of
whose nodes each runs a clerk, by a request on `ctl.<verb>`: no stream and no key of another site
is ever read across a link. Every answer is one page, small enough for one message.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import msgspec

from scalebox_actors import cancelling, operations
from scalebox_actors.broker import JetStreamBroker, Link, answer_on
from scalebox_actors.broker.client import ConnectionLost, NoResponders
from scalebox_actors.cancelling import Sweep, Swept
from scalebox_actors.effects import DETAIL
from scalebox_actors.errors import UNREADABLE, BadMessage, SbxError, Transient, Unavailable
from scalebox_actors.limits import CLERK_PAGE, CLERK_WAIT, CLERK_WORK
from scalebox_actors.local import Site
from scalebox_actors.message import header_block_size
from scalebox_actors.names import Names
from scalebox_actors.node import NodeStatus
from scalebox_actors.operations import Selection
from scalebox_actors.ports import Stored
from scalebox_actors.questions import (
    LOOKING,
    Changed,
    Look,
    Op,
    Page,
    Question,
    by_module,
    states,
)
from scalebox_actors.records import RunRecord
from scalebox_actors.topology.model import Topology

ASK_SECONDS = 0.5
"""How long the nodes of a site have to say how they are."""
LETTERS_AT_ONCE = 200
PAGE_SECONDS = 30.0
"""After so long a page that tells of work ends: who asked waits for `CLERK_WORK`."""
FRAME = 32
"""What a message that was cancelled takes in an answer, besides its names."""

log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode


class Clerk:
    """Answers for the site that it is at."""

    def __init__(self, site: Site, broker: JetStreamBroker, topology: Topology) -> None:
        self._names = site.names
        self._site = site
        self._broker = broker
        self._topology = topology
        self._work: dict[Op, Callable[[Question], Awaitable[Page]]] = {
            Op.SITE: self._look,
            Op.RUNS: self._runs,
            Op.LETTERS: self._letters,
            Op.RECALL: self._recall,
            Op.CANCEL: self._cancel,
            Op.PAUSE: self._pause,
            Op.RESUME: self._resume,
            Op.RETRY: self._retry,
            Op.DROP: self._drop,
        }

    @property
    def site(self) -> str:
        """The site that is answered for."""
        return self._names.site

    async def answer(self, question: Question) -> Page:
        """Return one page of the answer."""
        return await self._work[question.op](question)

    async def serve(self, node: str) -> None:
        """Answer other sites until the connection ends, as the clerk of a node."""
        for op in Op:
            await answer_on(self._site.link, self._names.ctl(op), partial(self._told, node, op))

    async def _told(self, node: str, verb: Op, body: bytes) -> bytes | None:
        """Return the answer to a question that came by `ctl.<verb>`; None if others are meant."""
        try:
            question = msgspec.json.decode(body, type=Question)
        except UNREADABLE as error:
            return _encode(Page(node=node, error=f"not understood: {error}"))
        if question.node not in ("", node):
            return None
        answer = _encode(msgspec.structs.replace(await self._page(question, verb), node=node))
        try:
            self._site.link.check_size(len(answer))
        except BadMessage as error:
            return _encode(Page(node=node, error=f"too much at once: {error}"))
        return answer

    async def _page(self, question: Question, verb: Op) -> Page:
        """Return a page whatever happens: who asked must not wait in vain."""
        if question.op is not verb:
            # The server knows who may ask by the subject; it does not read the question.
            return Page(error=f"{question.op} is not to be asked by {verb}")
        try:
            return await self.answer(question)
        except SbxError as error:
            return Page(error=str(error))
        except Exception as error:  # a bug of ours
            log.exception("question_failed", extra={"verb": str(verb)})
            return Page(error=f"{type(error).__name__}: {error}")

    # --- looking ----------------------------------------------------------------------------

    async def _look(self, question: Question) -> Page:
        del question
        names, admin = self._names, self._site.admin
        answers = await self._broker.ask("status", b"", wait=ASK_SECONDS)
        nodes = tuple(_decoded(answers))
        here = self._topology.modules_at(names.site)
        backlogs = {name: await admin.backlog(name) for name in here}
        dead = await admin.list_subjects(names.dead("*", "*"))
        results = await admin.list_subjects(names.result("*"))
        sizes = {one.name: one for one in await admin.sizes()}
        stream = sizes.get(names.stream)
        look = Look(
            modules=states(names.site, backlogs, nodes, (by_module(dead), by_module(results))),
            nodes=nodes,
            now=await self._broker.clock(),
            bytes=stream.bytes if stream else 0,
            max_bytes=stream.max_bytes if stream else 0,
            outgoing=await self._site.outgoing(),
        )
        return Page(look=look)

    async def _runs(self, question: Question) -> Page:
        since = max(1.0, await self._broker.clock() - question.seconds)
        found: list[RunRecord] = []
        size = 0
        # A later page begins where the one before ended, whatever time it is by now.
        admin, later = self._site.admin, question.start > 1
        found_pages = (
            admin.trace_messages(start=question.start)
            if later
            else admin.trace_messages(since=since)
        )
        async for stored_page in found_pages:
            for stored in stored_page:
                found += _records(stored.body, question.chosen)
                size += len(stored.body)
                if size > CLERK_PAGE:
                    return Page(runs=tuple(found), next=stored.sequence + 1)
        return Page(runs=tuple(found))

    async def _letters(self, question: Question) -> Page:
        letters, more = await self._some_letters(question)
        return Page(letters=tuple(_cut(letter) for letter in letters), next=more)

    async def _some_letters(self, question: Question) -> tuple[tuple[Stored, ...], int]:
        """Return letters for one page, and where the next one begins."""
        found: list[Stored] = []
        size = 0
        async for letter in operations.letters(self._site, question.chosen, question.start):
            if question.until and letter.sequence > question.until:
                break
            found.append(letter)
            size += min(len(letter.body), CLERK_PAGE) + header_block_size(letter.headers)
            if size > CLERK_PAGE or len(found) == LETTERS_AT_ONCE:
                return tuple(found), letter.sequence + 1
        return tuple(found), 0

    # --- changing ---------------------------------------------------------------------------

    async def _recall(self, question: Question) -> Page:
        return await self._swept(
            question, cancelling.recalls(self._site, self._broker, question.chosen)
        )

    async def _cancel(self, question: Question) -> Page:
        part = self._topology.part(self.site)
        return await self._swept(
            question, cancelling.sweeps(self._site, self._broker, part, question.chosen)
        )

    async def _swept(self, question: Question, sweeps: Sequence[Sweep]) -> Page:
        """Cancel as much as one page can tell; what is asked for again had been cancelled."""
        told = _Told(time.monotonic() + PAGE_SECONDS)
        try:
            async with asyncio.TaskGroup() as asking:
                for step in range(question.step, len(sweeps)):
                    start = question.start if step == question.step else 1
                    async for swept in sweeps[step](start):
                        if swept.stopped:
                            asking.create_task(cancelling.end_runs(self._broker, swept.stopped))
                        told.add(swept)
                        if told.enough:
                            return told.page(swept.last + 1, step)
        except* SbxError as group:
            raise group.exceptions[0] from group
        return told.page()

    async def _pause(self, question: Question) -> Page:
        admin = self._site.admin
        until = {name: await admin.pause(name, question.seconds) for name in self._of(question)}
        return Page(
            changed=tuple(Changed(module=name, paused_until=at) for name, at in until.items())
        )

    async def _resume(self, question: Question) -> Page:
        names = self._of(question)
        for name in names:
            await self._site.admin.resume(name)
        return Page(changed=tuple(Changed(module=name) for name in names))

    async def _retry(self, question: Question) -> Page:
        async def again(letter: Stored) -> str:
            return await operations.retry(self._site, self._broker, self._topology, letter)

        return await self._each_letter(question, again)

    async def _drop(self, question: Question) -> Page:
        async def remove(letter: Stored) -> str:
            await operations.drop(self._site, self._broker, self._topology, letter)
            return ""

        return await self._each_letter(question, remove)

    async def _each_letter(
        self, question: Question, work: Callable[[Stored], Awaitable[str]]
    ) -> Page:
        """Do something to letters; those that come only while we are at it are left alone."""
        until = question.until or await self._site.admin.last_sequence()
        bounded = msgspec.structs.replace(question, until=until)
        letters, more = await self._some_letters(bounded)
        changed, failed = [], []
        for letter in letters:
            module, letter_id = operations.letter_key(letter)
            try:
                changed.append(Changed(module=module, id=letter_id, new_id=await work(letter)))
            except Transient:
                raise
            except SbxError as error:  # of this letter: the others are none the worse
                failed.append(Changed(module=module, id=letter_id, error=str(error)))
        return Page(changed=tuple(changed), failed=tuple(failed), next=more, until=until)

    def _of(self, question: Question) -> tuple[str, ...]:
        here = self._topology.modules_at(self.site)
        return tuple(name for name in here if name in question.modules or not question.modules)


class _Told:
    """What a page tells of what was cancelled."""

    def __init__(self, end: float) -> None:
        self._end = end
        self._size = 0
        self._changed: list[Changed] = []
        self._underway: list[Changed] = []

    def add(self, swept: Swept) -> None:
        """Tell more."""
        for messages, told in (
            (swept.cancelled, self._changed),
            (swept.underway, self._underway),
        ):
            told += [Changed(module=one.module, id=one.id) for one in messages]
            self._size += sum(len(one.module) + len(one.id) + FRAME for one in messages)

    @property
    def enough(self) -> bool:
        """Whether the rest should go into another page: who asked waits only so long."""
        return self._size > CLERK_PAGE or time.monotonic() > self._end

    def page(self, place: int = 0, step: int = 0) -> Page:
        """Return it, and where the next one begins if there is one."""
        changed, underway = tuple(self._changed), tuple(self._underway)
        return Page(changed=changed, underway=underway, next=place, step=step)


class Far:
    """The clerk of another site, across a link."""

    def __init__(self, link: Link, names: Names) -> None:
        self._link = link
        self._names = names

    @property
    def site(self) -> str:
        """The site that is answered for."""
        return self._names.site

    async def answer(self, question: Question) -> Page:
        """Return one page of the answer; raises Unavailable if nobody gives one in time."""
        subject = self._names.ctl(question.op)
        if not question.node and question.op not in LOOKING:
            # What changes something is done by one clerk, or two would tell of half of it each.
            page = await self.answer(Question(op=Op.SITE))
            question = msgspec.structs.replace(question, node=page.node)
        seconds = CLERK_WAIT if question.op in LOOKING else CLERK_WORK
        try:
            reply = await self._link.call_once(subject, _encode(question), seconds)
            return msgspec.json.decode(reply.body, type=Page)
        except (NoResponders, ConnectionLost):
            raise Unavailable(f"site {self.site} does not answer") from None
        except UNREADABLE as error:
            raise SbxError(f"site {self.site} answers in another version: {error}") from None


def _cut(letter: Stored) -> Stored:
    """Return a letter that fits an answer; one that was cut says so in its reason's detail."""
    if len(letter.body) <= CLERK_PAGE:
        return letter
    told = f"{letter.headers.get(DETAIL, '')} (body cut: {len(letter.body)} bytes)"
    headers = {**letter.headers, DETAIL: told}
    return msgspec.structs.replace(letter, body=letter.body[:CLERK_PAGE], headers=headers)


def _decoded(answers: Sequence[bytes]) -> list[NodeStatus]:
    """Return the answers that can be read; nodes of another version may say more or less."""
    found = []
    for answer in answers:
        try:
            found.append(msgspec.json.decode(answer, type=NodeStatus))
        except UNREADABLE:
            continue
    return sorted(found, key=lambda status: status.node)


def _records(lines: bytes, chosen: Selection) -> list[RunRecord]:
    """Return the run records in a message of the trace stream; those of other versions are left."""
    found = []
    for line in lines.split(b"\n"):
        try:
            record = msgspec.json.decode(line, type=RunRecord)
        except UNREADABLE:
            continue
        if chosen.id in ("", record.id) and chosen.module in ("", record.module):
            found.append(record)
    return found
