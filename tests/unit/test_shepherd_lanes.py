"""Lanes: whose turn it is, with which seat, whatever happens to those before."""

from scalebox_actors.runtimes.shepherd_journal import Json
from scalebox_actors.runtimes.shepherd_lanes import Lanes
from scalebox_actors.runtimes.shepherd_program import Program


def asked(name: str, seats: int = 1, lane: str = "m") -> Json:
    """Return what is asked of a run."""
    return {
        "name": name,
        "id": name,
        "labels": {},
        "attempt": 1,
        "work": "/",
        "time": 0.0,
        "env": {},
        "lane": {"name": lane, "seats": seats, "variables": {"SEAT": "s"}},
    }


def come(lanes: Lanes, name: str, seats: int = 1) -> tuple[Program, Json, bool]:
    """Let a run come; return it, what it is told, and whether it begins."""
    wanted = asked(name, seats)
    program = Program("/state", wanted)
    return program, wanted, lanes.sit(program, wanted)


def test_who_comes_first_begins_first() -> None:
    """Each with the seat of the one before."""
    lanes = Lanes()
    first, told, begins = come(lanes, "a")
    second, later, waits = come(lanes, "b")
    assert (begins, told["env"], waits) == (True, {"SEAT": "s0"}, False)
    assert list(lanes.next("m")) == []

    lanes.leave(first)

    assert list(lanes.next("m")) == [(second, later)]
    assert later["env"] == {"SEAT": "s0"}
    assert second.asked is None


def test_one_that_could_not_be_begun_keeps_its_place() -> None:
    """And its seat is for whoever is the first then: itself."""
    lanes = Lanes()
    first, *_ = come(lanes, "a")
    second, later, _ = come(lanes, "b")
    come(lanes, "c")
    lanes.leave(first)
    (turn,) = lanes.next("m")

    lanes.put_back(*turn)

    assert second.asked is later
    assert [program for program, _ in lanes.next("m")] == [second]


def test_a_lane_that_nobody_uses_is_forgotten() -> None:
    """A shepherd that lives for months sees many topologies."""
    lanes = Lanes()
    programs = [come(lanes, name)[0] for name in ("a", "b", "c")]
    for program in (programs[2], programs[0]):
        lanes.leave(program)
    assert [program for program, _ in lanes.next("m")] == [programs[1]]
    lanes.leave(programs[1])

    assert lanes._all == {}
    assert not lanes.waits("m")


def test_fewer_slots_than_before() -> None:
    """Nobody begins until no more run than there are slots now."""
    lanes = Lanes()
    old = [come(lanes, name, seats=3)[0] for name in ("a", "b", "c")]
    new, *_ = come(lanes, "d", seats=1)
    for program in old[:2]:
        lanes.leave(program)
        assert list(lanes.next("m")) == []
    lanes.leave(old[2])

    assert [program for program, _ in lanes.next("m")] == [new]


def test_more_slots_than_before() -> None:
    """One in line that was told of fewer does not hold up those behind it."""
    lanes = Lanes()
    come(lanes, "a")
    waiting, *_ = come(lanes, "b")
    newest, _, begins = come(lanes, "c", seats=3)

    assert not begins
    assert [program for program, _ in lanes.next("m")] == [waiting, newest]


def test_a_run_without_a_lane_waits_for_nobody() -> None:
    """As containers, and the runs of older nodes."""
    lanes, wanted = Lanes(), asked("a")
    del wanted["lane"]
    program = Program("/state", wanted)

    assert lanes.sit(program, wanted)
    lanes.leave(program)
    assert list(lanes.next("")) == []
