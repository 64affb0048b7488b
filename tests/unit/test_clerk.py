"""The clerk on doubles: whoever asks gets an answer, whatever goes wrong."""

from collections.abc import AsyncIterator
from typing import Any, cast

import msgspec
import pytest

from scalebox_actors import cancelling, operations
from scalebox_actors.clerk import Clerk, _records
from scalebox_actors.errors import BadMessage, SbxError, Unavailable
from scalebox_actors.local import Site
from scalebox_actors.names import Names
from scalebox_actors.operations import Selection
from scalebox_actors.ports import Stored
from scalebox_actors.questions import LOOKING, Op, Page, Question
from scalebox_actors.topology.model import Module, Topology


class Line:
    """A link that takes short answers only."""

    room = 1_000

    def check_size(self, size: int) -> None:
        """Refuse what is too long."""
        if size > self.room:
            raise BadMessage(f"{size} bytes")


class Place:
    """A site without a server."""

    names, admin = Names("t", "a"), None

    def __init__(self) -> None:
        self.link = Line()


async def asked(question: Question | bytes, verb: Op | None = None) -> tuple[Page, Clerk]:
    """Ask a clerk from another site; return its answer."""
    topology = Topology(name="t", modules={"m": Module(name="m")})
    clerk = Clerk(cast("Site", Place()), cast("Any", None), topology)
    if isinstance(question, bytes):
        answer = await clerk._told("n1", Op.SITE, question)
    else:
        answer = await clerk._told("n1", verb or question.op, msgspec.json.encode(question))
    return msgspec.json.decode(answer or b"", type=Page), clerk


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


@pytest.mark.parametrize("op", [op for op in Op if op not in LOOKING])
@pytest.mark.parametrize("verb", LOOKING)
async def test_a_verb_is_asked_for_what_it_says(
    monkeypatch: pytest.MonkeyPatch, verb: Op, op: Op
) -> None:
    """Who may only look cannot have something changed by writing that into the question."""

    async def never(*_: object) -> Page:
        raise AssertionError

    monkeypatch.setattr(Clerk, "answer", never)
    page, _ = await asked(Question(op=op), verb)

    assert page == Page(node="n1", error=f"{op} is not to be asked by {verb}")


async def test_an_answer_that_is_too_long_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for too much at once hears that."""

    async def long(*_: object) -> Page:
        return Page(error="x" * Line.room)

    monkeypatch.setattr(Clerk, "answer", long)
    page, _ = await asked(Question(op=Op.SITE))

    assert page.error.startswith("too much at once: ")


async def test_a_question_for_another_is_left_to_it() -> None:
    """What changes something is done by one clerk of a site."""
    clerk = Clerk(cast("Site", Place()), cast("Any", None), Topology(name="t", modules={}))

    assert await clerk._told("n1", Op.DROP, b'{"op":"drop","node":"n2"}') is None
    assert b"not understood" in (await clerk._told("n1", Op.DROP, b"{") or b"")
