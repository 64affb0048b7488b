"""The clerk on doubles: whoever asks gets an answer, whatever goes wrong."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any, cast

import msgspec
import pytest

from scalebox_actors import cancelling, operations
from scalebox_actors.clerk import Clerk, _records
from scalebox_actors.errors import SbxError, Unavailable
from scalebox_actors.local import Site
from scalebox_actors.names import Names
from scalebox_actors.operations import Selection
from scalebox_actors.ports import Stored
from scalebox_actors.questions import Op, Page, Question
from scalebox_actors.topology.model import Module, Topology


class Line:
    """A link that somebody at another site listens on."""

    def __init__(self) -> None:
        self.answers: list[Page] = []
        self.work: list[asyncio.Future[None]] = []

    def publish(self, subject: str, body: bytes) -> None:
        """Hear an answer."""
        assert subject == "reply"
        self.answers.append(msgspec.json.decode(body, type=Page))

    def spawn(self, work: Awaitable[None]) -> None:
        """Do what was asked for."""
        self.work.append(asyncio.ensure_future(work))


class Place:
    """A site without a server."""

    names, admin = Names("t", "a"), None

    def __init__(self) -> None:
        self.link = Line()


async def asked(question: Question | bytes) -> tuple[Page, Clerk]:
    """Ask a clerk from another site; return its answer."""
    body = question if isinstance(question, bytes) else msgspec.json.encode(question)
    place = Place()
    topology = Topology(name="t", modules={"m": Module(name="m")})
    clerk = Clerk(cast("Site", place), cast("Any", None), topology)
    clerk._receiver("n1")(b"", b"reply", body, None)
    await asyncio.gather(*place.link.work)
    (page,) = place.link.answers
    return page, clerk


@pytest.mark.parametrize(
    "body", [pytest.param(b"[]", id="no-question"), pytest.param(b'{"op":"\xff"}', id="no-text")]
)
async def test_what_is_no_question_is_answered(body: bytes) -> None:
    """Whoever sends noise is told so, and does not wait."""
    page, _ = await asked(body)

    assert page.error.startswith("not understood: ")


async def test_run_records_that_cannot_be_read_are_left_out() -> None:
    """One line of noise in the trace hides no other."""
    lines = b'{"module":"m","id":"a"}\n{"module":"\xff"}\nxx'

    assert [record.id for record in _records(lines, Selection())] == ["a"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(Unavailable("the server is gone"), "the server is gone", id="ours"),
        pytest.param(ValueError("a bug"), "ExceptionGroup: ", id="bug"),
    ],
)
async def test_a_cancel_that_fails_is_answered(
    monkeypatch: pytest.MonkeyPatch, error: Exception, expected: str
) -> None:
    """Whoever waits at another site is told why, and does not wait for a minute."""

    async def failing(*_: object) -> AsyncIterator[object]:
        raise error
        yield

    monkeypatch.setattr(cancelling, "sweeps", lambda *_: [failing])
    page, clerk = await asked(Question(op=Op.CANCEL))

    assert (page.node, page.error.startswith(expected)) == ("n1", True)
    if isinstance(error, SbxError):
        with pytest.raises(Unavailable):  # and at its own site by the same name
            await clerk.answer(Question(op=Op.CANCEL))


async def test_a_letter_that_is_refused_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each that could not be sent again is told of with its reason."""

    async def letters(*_: object) -> AsyncIterator[Stored]:
        for number in range(3):
            subject = f"sbx.t.a.dead.m.l{number}"
            yield Stored(subject=subject, body=b"", headers={}, sequence=number, time=0.0)

    async def retry(*given: object) -> str:
        if cast("Stored", given[-1]).sequence == 1:
            raise SbxError("refused")
        return "new"

    monkeypatch.setattr(operations, "letters", letters)
    monkeypatch.setattr(operations, "retry", retry)
    page, _ = await asked(Question(op=Op.RETRY, until=9))

    assert [one.id for one in page.changed] == ["l0", "l2"]
    assert [(one.id, one.error) for one in page.failed] == [("l1", "refused")]
