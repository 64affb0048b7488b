"""`cancel` over several sites: what is between them when they are asked is not missed."""

from collections.abc import Sequence
from typing import cast

import msgspec
import pytest

from scalebox_actors.cli import cancel as cancel_module
from scalebox_actors.cli import everywhere
from scalebox_actors.cli.cancel import Outcome, cancel_everywhere
from scalebox_actors.cli.options import Common
from scalebox_actors.cli.session import Session
from scalebox_actors.operations import Selection
from scalebox_actors.questions import Changed, Desk, Op, Page, Question
from scalebox_actors.topology.model import Site, Topology

MESSAGE = Changed(module="m", id="x")
NOTHING, DONE, UNDERWAY = Page(), Page(changed=(MESSAGE,)), Page(underway=(MESSAGE,))


class Counter:
    """A desk whose clerk has its answers ready: to what is asked first, and after that."""

    def __init__(self, site: str, *answers: Page) -> None:
        self.site = site
        self._answers = dict(zip((Op.RECALL, Op.CANCEL), answers, strict=True))

    async def answer(self, question: Question) -> Page:
        """Return the answer."""
        return self._answers[question.op]


class Place(msgspec.Struct):
    """A session whose topology alone is asked."""

    topology: Topology = Topology(name="t", modules={}, sites={s: Site(name=s) for s in "ab"})


@pytest.mark.parametrize(
    ("here", "there", "cancelled", "underway"),
    [
        pytest.param((NOTHING, DONE), (NOTHING, NOTHING), 1, 0, id="it-came-before-we-asked"),
        pytest.param((NOTHING, DONE), (UNDERWAY, NOTHING), 1, 0, id="it-came-after-we-asked"),
        pytest.param((NOTHING, NOTHING), (UNDERWAY, DONE), 1, 0, id="it-fell-back"),
        pytest.param((NOTHING, DONE), (UNDERWAY, UNDERWAY), 1, 0, id="its-parcel-did-not-come"),
        pytest.param((NOTHING, NOTHING), (UNDERWAY, UNDERWAY), 0, 1, id="it-is-on-its-way"),
        pytest.param((DONE, NOTHING), (NOTHING, DONE), 1, 0, id="twice-is-once"),
        pytest.param((NOTHING, NOTHING), (NOTHING, NOTHING), 0, 0, id="it-is-nowhere"),
    ],
)
async def test_what_is_on_its_way_is_not_missed(
    monkeypatch: pytest.MonkeyPatch,
    here: Sequence[Page],
    there: Sequence[Page],
    cancelled: int,
    underway: int,
) -> None:
    """All sites take back what waits to be carried before any of them looks at what is there."""

    async def desks(_: Session) -> list[Desk]:
        return sites

    sites: list[Desk] = [Counter("a", *here), Counter("b", *there)]
    monkeypatch.setattr(everywhere, "desks", desks)
    monkeypatch.setattr(cancel_module, "SILENCE", 0.0)
    session = cast("Session", Place())

    outcome = await cancel_everywhere(Common(json=False), session, Selection(id="x"))

    one = {("m", "x")}
    expected = Outcome(cancelled=one if cancelled else set(), underway=one if underway else set())
    assert outcome == expected
