"""What people at any site ask the clerk of a site, and what it answers: one page at a time."""

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from scalebox_actors.errors import SbxError
from scalebox_actors.node import NodeStatus
from scalebox_actors.operations import Selection
from scalebox_actors.ports import Backlog, Stored
from scalebox_actors.records import RunRecord


class Op(StrEnum):
    """What a clerk can be asked for; the value is the verb of its subject."""

    SITE = "look"
    RUNS = "trace"
    LETTERS = "dead"
    RECALL = "recall"
    CANCEL = "cancel-all"
    PAUSE = "pause"
    RESUME = "resume"
    RETRY = "retry"
    DROP = "drop"


LOOKING = (Op.SITE, Op.RUNS, Op.LETTERS)
"""What changes nothing; nodes without a right to change things answer that, too."""


class Question(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is asked of a clerk."""

    op: Op
    node: str = ""
    """Whose clerk is to answer; empty: any."""
    chosen: Selection = Selection()
    modules: tuple[str, ...] = ()
    seconds: float = 0.0
    """How far to look back, or how long to pause."""
    start: int = 1
    """The sequence at which the page begins."""
    until: int = 0
    """The sequence at which the first page found the end; later ones are left alone."""
    step: int = 0
    """Which part of the work the page begins in, if that has several."""


class ModuleState(msgspec.Struct, frozen=True, kw_only=True):
    """How one module stands at a site, over all its nodes."""

    module: str
    waiting: int
    running: int
    results: int
    dead: int
    done: int
    """Since the nodes that answered were started."""
    retried: int
    paused_until: float = 0.0
    suspended: str = ""
    site: str = ""
    containers: Mapping[str, int] = {}
    """How many of the containers that stay or wait are in which state."""
    launch: str = ""
    """What these are, by the module's launch mode; empty: it is not known."""


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """How a site stands."""

    modules: tuple[ModuleState, ...]
    nodes: tuple[NodeStatus, ...]
    now: float
    bytes: int
    max_bytes: int
    outgoing: Mapping[str, int] = {}
    """How much waits to be carried, by the site it is for."""


class Changed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was done to one message or one module."""

    module: str
    id: str = ""
    new_id: str = ""
    paused_until: float = 0.0
    error: str = ""
    """Why it could not be done."""


class Page(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One answer of a clerk."""

    node: str = ""
    next: int = 0
    """The sequence at which the next page begins; 0: there is none."""
    until: int = 0
    step: int = 0
    error: str = ""
    look: Look | None = None
    runs: tuple[RunRecord, ...] = ()
    letters: tuple[Stored, ...] = ()
    changed: tuple[Changed, ...] = ()
    failed: tuple[Changed, ...] = ()
    """What could not be changed, each with its reason."""
    underway: tuple[Changed, ...] = ()
    """What was to be changed and is on its way to another site."""


class Desk(Protocol):
    """Where a clerk is asked."""

    @property
    def site(self) -> str:
        """The site that is answered for."""

    async def answer(self, question: Question) -> Page:
        """Return one page; raises Unavailable if nobody answers."""


async def pages(desk: Desk, question: Question) -> AsyncIterator[Page]:
    """Give all pages of an answer; raises SbxError with the reason if a clerk could not."""
    while True:
        page = await desk.answer(question)
        if page.error:
            raise SbxError(f"site {desk.site}: {page.error}")
        yield page
        if not page.next:
            return
        question = msgspec.structs.replace(
            question, start=page.next, until=page.until, step=page.step, node=page.node
        )


def states(
    site: str,
    backlogs: Mapping[str, Backlog],
    nodes: Sequence[NodeStatus],
    counts: tuple[Mapping[str, int], Mapping[str, int]],
) -> tuple[ModuleState, ...]:
    """Put together what the server and the nodes say of each module; counts: dead and results."""
    dead, results = counts
    found = []
    for name, backlog in backlogs.items():
        here = [node.modules[name] for node in nodes if name in node.modules]
        found.append(
            ModuleState(
                module=name,
                site=site,
                waiting=backlog.waiting,
                running=backlog.in_hand,
                results=results.get(name, 0),
                dead=dead.get(name, 0),
                done=sum(status.counts.done for status in here),
                retried=sum(status.counts.retried for status in here),
                paused_until=backlog.paused_until,
                suspended="; ".join(sorted({s.suspended for s in here if s.suspended})),
                containers=sum((Counter(s.containers) for s in here), Counter()),
            )
        )
    return tuple(found)


def by_module(subjects: Mapping[str, int]) -> dict[str, int]:
    """Add up counts per subject by the module in it."""
    counts: dict[str, int] = {}
    for subject, count in subjects.items():
        module = subject.split(".")[4]
        counts[module] = counts.get(module, 0) + count
    return counts
