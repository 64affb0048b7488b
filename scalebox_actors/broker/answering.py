"""Answering questions: into an inbox and nowhere else.

Whoever asks writes down himself where the answer goes, and nats-server does not compare that with
what he may publish: the answer goes out with the rights of who gives it. Believed, a question
whose answer is wanted on `$JS.API.STREAM.DELETE.…` deletes a stream, and one for the subject of a
task makes a task.
"""

import re
from collections.abc import Awaitable, Callable

from scalebox_actors.broker.link import Link
from scalebox_actors.errors import SbxError

Answering = Callable[[bytes], Awaitable[bytes | None]]
"""Takes a question and returns the answer, or None if others are to answer it."""

_INBOX = re.compile(r"_INBOX(_[a-z][a-z0-9_-]*)?(\.[A-Za-z0-9_-]+)+")
"""What `rights.inbox` names for a login with keys, and clients use without. It crosses links as it
is; only an import between accounts would make something else of it, and we make none."""
_SHOWN = 100


async def answer_on(link: Link, subject: str, answering: Answering) -> None:
    """Answer the questions on `subject` until the connection ends.

    A question whose answer is wanted elsewhere than in an inbox is not even looked at.
    """

    async def respond(reply: str, question: bytes) -> None:
        try:
            answer = await answering(question)
            if answer is not None:
                link.publish(reply, answer)
        except SbxError as error:
            link.events("ctl_failed", f"{subject}: {error}")

    def receive(_: bytes, reply: bytes, question: bytes, __: bytes | None) -> None:
        where = reply.decode("ascii", "replace")
        if is_inbox(where):
            link.spawn(respond(where, question))
        elif where:
            link.events("answer_withheld", f"{subject}: {where[:_SHOWN]!r} is no inbox")

    await link.subscribe(subject, receive)


def is_inbox(subject: str) -> bool:
    """Whether nothing but an answer to somebody can be meant by a subject."""
    return _INBOX.fullmatch(subject) is not None
