"""The pool: never more given away than there is, and everybody in line gets in."""

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from scalebox_actors.limits import MIB
from scalebox_actors.pool import (
    MANY,
    Claim,
    Pool,
    Room,
    Share,
    Ticket,
    claim_of,
    lack,
    read_share,
    share_text,
    stand,
)
from scalebox_actors.topology.model import Launch, Limits, Module, Size

ROOM = Room(memory=100, millicpus=4000, gpus=(0, 2, 3))


@pytest.mark.parametrize(
    ("claim", "room", "expected"),
    [
        (Claim(), Room(memory=0, millicpus=0), ""),
        (Claim(memory=100, millicpus=4000, gpus=3), ROOM, ""),
        (Claim(memory=2**40, millicpus=10**9), Room(), ""),
        (Claim(memory=2 * MIB), Room(memory=MIB), "needs 2MiB, but a node may use 1MiB of memory"),
        (Claim(millicpus=4500), ROOM, "needs 4.5, but a node may use 4 CPUs here (--cpus)"),
        (Claim(gpus=4), ROOM, "needs 4, but a node may use 3 GPUs here (--gpus)"),
        (Claim(gpus=1), Room(), "needs 1, but a node may use 0 GPUs"),
    ],
)
def test_what_can_never_be_met_is_said(claim: Claim, room: Room, expected: str) -> None:
    """A claim larger than the whole node has a sentence, every other has none."""
    assert lack(claim, room).startswith(expected)
    assert bool(expected) == bool(lack(claim, room))


STAYS = Module(
    name="m",
    image="i",
    launch=Launch.SLOT,
    slots=2,
    limits=Limits(memory=Size(30), cpus=1, gpus=1),
)


def test_containers_that_stay_leave_less_room_for_runs() -> None:
    """What they hold for good is no room that anybody could wait for; it is back once they end."""
    pool = Pool(ROOM)
    tickets, why = stand(pool, STAYS)

    assert (len(tickets), why) == (2, "")
    assert pool.for_runs == Room(memory=40, millicpus=2000, gpus=(3,))
    assert pool.count(Claim(memory=40)) == 1
    with pytest.raises(ValueError, match="may use 40 of memory"):
        pool.join(Claim(memory=50))
    for ticket in tickets:
        pool.leave(ticket)
    assert pool.for_runs == ROOM
    assert pool.in_use.taken == Share()


def test_containers_that_stay_come_all_or_none() -> None:
    """A module whose containers do not fit together takes nothing and says what it lacks."""
    pool = Pool(Room(memory=50))
    module = msgspec.structs.replace(STAYS, limits=Limits(memory=Size(30)))

    assert stand(pool, module) == (
        [],
        "for its 2 containers that stay: needs 60, but a node may use 50 of memory here (--memory)",
    )
    assert pool.in_use.taken == Share()


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (Module(name="m", image="i"), Claim()),
        (
            Module(name="m", image="i", limits=Limits(memory=Size(7), cpus=0.5, gpus=2)),
            Claim(memory=7, millicpus=500, gpus=2),
        ),
        (Module(name="m", image="i", limits=Limits(cpus=0.0001)), Claim(millicpus=1)),
        (
            Module(name="m", function="a:b", launch=Launch.FUNCTION, limits=Limits(cpus=1)),
            Claim(),
        ),
    ],
)
def test_a_claim_is_what_the_module_declares(module: Module, expected: Claim) -> None:
    """Limits are claimed; what is not declared, and a function, claims nothing."""
    assert expected == claim_of(module)


@pytest.mark.parametrize(
    "share", [Share(), Share(memory=5, millicpus=1500, gpus=(3,)), Share(gpus=(0, 11))]
)
def test_a_share_survives_as_a_label(share: Share) -> None:
    """A node that comes back reads what its containers have."""
    assert read_share(share_text(share)) == share


@pytest.mark.parametrize("text", ["", "1", "1:2", "x:1:", "1:2:a", "1::"])
def test_a_label_of_somebody_else_is_no_share(text: str) -> None:
    """What cannot be read is nobody's share, and no error."""
    assert read_share(text) is None


def test_a_gpu_is_one_runs_alone() -> None:
    """Each has indexes of its own, the lowest first, and they come back."""
    pool = Pool(ROOM)
    one, two = pool.join(Claim(gpus=2)), pool.join(Claim(gpus=1))
    late = pool.join(Claim(gpus=1))
    pool.leave(two)

    assert one.share is not None
    assert late.share is not None
    assert (one.share.gpus, late.share.gpus) == ((0, 2), (3,))
    assert pool.count(Claim(gpus=1)) == 0


def test_nobody_overtakes() -> None:
    """A small claim that would fit stands behind a large one that does not."""
    pool, told = Pool(ROOM), list[str]()
    first = pool.join(Claim(millicpus=3000))
    large = pool.join(Claim(millicpus=4000), lambda: told.append("large"))
    small = pool.join(Claim(millicpus=500), lambda: told.append("small"))
    before = (large.share, small.share, pool.count(Claim(memory=1)))
    pool.leave(first)
    between = small.share
    pool.leave(large)

    assert before == (None, None, 0)
    assert (between, told) == (None, ["large", "small"])
    assert small.share is not None


def test_who_gives_up_lets_the_next_in() -> None:
    """A place in the line can be left like a share, and more than once."""
    pool = Pool(ROOM)
    pool.join(Claim(millicpus=3000))
    large, small = pool.join(Claim(millicpus=2000)), pool.join(Claim(millicpus=1000))
    for _ in range(2):
        pool.leave(large)

    assert (large.share, small.share) == (None, Share(millicpus=1000))


def test_what_is_not_limited_always_fits() -> None:
    """A pool without bounds holds nobody up."""
    pool = Pool(Room())

    assert pool.count(Claim(memory=2**60, millicpus=10**6)) == MANY
    assert pool.count(Claim(gpus=1)) == 0


def test_a_claim_that_can_never_be_met_is_no_place_in_line() -> None:
    """It would stand in front of everybody for ever."""
    with pytest.raises(ValueError, match="GPUs"):
        Pool(ROOM).join(Claim(gpus=9))


def test_runs_from_before_count() -> None:
    """A run that was adopted takes its share and its GPU until it has ended."""
    pool = Pool(ROOM)
    pool.adopt(("n", "old"), Share(millicpus=3500, gpus=(2,)))
    pool.adopt(("n", "old"), Share(millicpus=3500, gpus=(2,)))
    waiting = pool.join(Claim(millicpus=1000, gpus=2))
    before, left = waiting.share, pool.in_use.taken
    pool.forget(("n", "old"))
    pool.forget(("n", "old"))

    assert (before, left) == (None, Share(millicpus=3500, gpus=(2,)))
    assert waiting.share == Share(millicpus=1000, gpus=(0, 2))


def test_runs_from_before_may_be_more_than_there_is() -> None:
    """An operator who makes a node smaller waits for what runs; nothing goes below nothing."""
    pool = Pool(Room(millicpus=1000, gpus=(0,)))
    pool.adopt(("n", "old"), Share(millicpus=3000, gpus=(7,)))
    waiting = pool.join(Claim(millicpus=1000, gpus=1))
    before = waiting.share
    pool.forget(("n", "old"))

    assert before is None
    assert waiting.share == Share(millicpus=1000, gpus=(0,))
    assert pool.count(Claim(gpus=1)) == 0


def test_a_run_is_taken_over_with_its_share() -> None:
    """Whoever has it in hand then gives the share back like any other."""
    pool = Pool(ROOM)
    pool.adopt(("n", "old"), Share(gpus=(3,)))
    ticket = pool.take_over(("n", "old"))
    nobody = pool.take_over(("n", "old"))
    assert ticket is not None
    during = pool.count(Claim(gpus=1))
    pool.leave(ticket)

    assert (nobody, during, pool.count(Claim(gpus=1))) == (None, 2, 3)


def test_a_run_that_is_let_go_keeps_its_share() -> None:
    """Until it is known to have ended; one that was never granted has none."""
    pool = Pool(ROOM)
    running, waiting = pool.join(Claim(millicpus=4000)), pool.join(Claim(millicpus=1))
    pool.leave_behind(running, ("n", "run"))
    pool.leave_behind(waiting, ("n", "other"))
    before = pool.in_use
    pool.forget(("n", "run"))

    assert (before.taken.millicpus, before.waiting, list(pool.left)) == (4000, 0, [])
    assert pool.count(Claim(millicpus=4000)) == 1


CLAIMS = st.builds(
    Claim, memory=st.integers(0, 100), millicpus=st.integers(0, 4000), gpus=st.integers(0, 3)
)


class Life(RuleBasedStateMachine):
    """Any sequence of coming, going, giving up, dying and coming back."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool(ROOM)
        self.come: list[Ticket] = []
        """In the order in which they came."""
        self.number = 0

    @initialize(share=st.none() | st.builds(Share, millicpus=st.integers(0, 4000)))
    def before(self, share: Share | None) -> None:
        """Something may run from before."""
        if share is not None:
            self.pool.adopt(("n", "before"), share)

    @rule(claim=CLAIMS)
    def joins(self, claim: Claim) -> None:
        """Somebody comes."""
        self.come.append(self.pool.join(claim))

    @precondition(lambda self: self.come)
    @rule(data=st.data())
    def leaves(self, data: st.DataObject) -> None:
        """Somebody has ended, or gives up."""
        ticket = data.draw(st.sampled_from(self.come))
        self.come.remove(ticket)
        self.pool.leave(ticket)

    @precondition(lambda self: self.come)
    @rule(data=st.data())
    def is_let_go(self, data: st.DataObject) -> None:
        """Somebody lets go of a run that may go on."""
        ticket = data.draw(st.sampled_from(self.come))
        self.come.remove(ticket)
        self.number += 1
        self.pool.leave_behind(ticket, ("n", f"left{self.number}"))

    @precondition(lambda self: self.pool.left)
    @rule(data=st.data(), over=st.booleans())
    def comes_back(self, data: st.DataObject, over: bool) -> None:
        """A run that was let go is taken in hand again, or has ended."""
        name = data.draw(st.sampled_from(sorted(self.pool.left)))
        if over:
            self.pool.forget(name)
        else:
            ticket = self.pool.take_over(name)
            assert ticket is not None
            self.come.insert(0, ticket)

    @invariant()
    def never_over_committed(self) -> None:
        """No sum is above the room, and no GPU is given twice."""
        shares = [t.share for t in self.come if t.share] + list(self.pool.left.values())
        gpus = [index for share in shares for index in share.gpus]

        assert sum(share.memory for share in shares) <= 100
        assert sum(share.millicpus for share in shares) <= 4000
        assert len(gpus) == len(set(gpus))
        assert set(gpus) <= set(ROOM.gpus)

    @invariant()
    def first_come_first_served(self) -> None:
        """Who has nothing stands behind all who have something, and the first does not fit."""
        had = [ticket.share is not None for ticket in self.come]

        assert had == sorted(had, reverse=True)
        assert self.pool.in_use.waiting == had.count(False)

    def teardown(self) -> None:
        """If everybody ends in time, everybody gets in: nobody waits for ever."""
        for name in list(self.pool.left):
            self.pool.forget(name)
        while self.come:
            assert self.come[0].share is not None
            self.pool.leave(self.come.pop(0))

        assert self.pool.count(Claim(memory=100, millicpus=4000, gpus=3)) == 1


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
