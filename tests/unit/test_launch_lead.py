"""How many tasks are taken where runs take turns, and which modules' runs do."""

import pytest

from scalebox_actors.launch.environment import Surroundings, lasting_environment
from scalebox_actors.launch.lead import MOST, Lead, lane_of
from scalebox_actors.topology.model import Batch, Launch, Limits, Module, Size

AROUND = Surroundings(topology="t", node="n1")


def lead_after(*seconds: float, slots: int = 2) -> tuple[Lead, list[int]]:
    """Return what is known after runs that took so long, and what was said of the room."""
    lead, said = Lead(slots), list[int]()
    lead.tell = said.append
    for one in seconds:
        lead.note(one)
    return lead, said


def test_short_runs_are_handed_over_ahead() -> None:
    """As many as are worked off in a moment, and no more than some."""
    _, said = lead_after(*[0.001] * 60)

    assert said[-1] == 2 + MOST


def test_with_many_slots_as_many_may_wait() -> None:
    """A module of 32 slots and millisecond runs would else wait for the node."""
    _, said = lead_after(*[0.001] * 60, slots=32)

    assert said[-1] == 64


def test_runs_of_some_length_wait_alone() -> None:
    """While one of 30 ms goes on there is time to fetch a message: one in line is enough."""
    _, said = lead_after(*[0.03] * 60, slots=1)

    assert said == [2]


def test_long_runs_are_not_handed_over_ahead() -> None:
    """Their messages stay with the server, where any node can take them."""
    _, said = lead_after(*[1.0] * 5)

    assert said == []


def test_one_long_run_is_enough_to_take_no_more() -> None:
    """It is not known how long the next ones will be; short ones are believed again, in time."""
    lead, said = lead_after(*[0.001] * 60)

    lead.give_up()
    lead.note(0.001)
    assert said[-1] == 2

    for _ in range(60):
        lead.note(0.001)
    assert said[-1] == 2 + MOST


def test_a_lane_is_told_its_seats_as_a_slot_is() -> None:
    """The variables of a seat are those that a run would have had of its slot."""
    module = Module(name="a", image="i", command=("p",), slots=3)

    lane = lane_of(module, AROUND)

    assert lane is not None
    assert (lane.name, lane.seats) == ("t.a", 3)
    told = {name: f"{text}2" for name, text in lane.variables.items()}
    assert told.items() <= lasting_environment(module, 2, AROUND, "/work").items()


@pytest.mark.parametrize(
    "module",
    [
        Module(name="a", image="i", warm=1),
        Module(name="a", image="i", limits=Limits(cpus=1.0)),
        Module(name="a", image="i", limits=Limits(memory=Size(1 << 20))),
        Module(name="a", image="i", launch=Launch.FRESH, batch=Batch(size=2)),
    ],
    ids=["warm", "cpus", "memory", "batch"],
)
def test_who_needs_more_than_a_slot_has_no_lane(module: Module) -> None:
    """A share of the node, a container that waits or company is the node's to give."""
    assert lane_of(module, AROUND) is None
