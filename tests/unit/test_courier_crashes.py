"""Couriers die, or a call lies, at every call: what waits arrives once and is counted once."""

import os
import random
from collections.abc import Mapping

import msgspec
import pytest
from unit.crashworld import silence_the_dead
from unit.road import HERE, THERE, Road, end_pauses, expected

from scalebox_actors import courier as courier_module
from scalebox_actors.message import MSG_ID
from scalebox_actors.names import parcel_of
from scalebox_actors.testing.tape import Fault

KINDS = list(Fault)
WALKS = int(os.environ.get("SBX_WALKS", "60"))
SHAPES = ("alone", "parcel", "both", "broken")


@pytest.fixture(autouse=True)
def no_real_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no real time here."""
    end_pauses(monkeypatch)


def laid(shape: str, faults: Mapping[int, Fault] | None = None) -> Road:
    """Five messages that wait: each alone, all in one parcel, some of both, or with a bad one."""
    road = Road(faults)
    if shape == "broken":
        inside = [({MSG_ID: f"calc{n}"}, b"%d" % n) for n in range(5)]
        body = msgspec.msgpack.encode([*inside[:2], ({MSG_ID: "\n"}, b"bad"), *inside[2:]])
        road.here.shelf.store(parcel_of(HERE.out("a", "calc"), 6), body, {})
        return road
    together = {"alone": 0, "parcel": 5, "both": 3}[shape]
    if together:
        road.enclose(*range(together))
    road.put(5 - together, first=together)
    return road


async def enact(faults: Mapping[int, Fault], shape: str) -> None:
    """Carry five messages with faults: each arrives once, and the tally has each once."""
    road = laid(shape, faults)
    try:
        await road.live()
        arrived = sorted(m.body for m in road.there.messages(THERE.task("calc")))
        assert arrived == [b"0", b"1", b"2", b"3", b"4"]
        assert await road.tally() == expected(5)
        assert len(road.here.messages(HERE.dead("*", "*"))) == (shape == "broken")
    except AssertionError as error:
        raise AssertionError(f"{shape} {faults}: {error}\n{road.tape.calls}") from error


@pytest.mark.timeout(120)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("load", [2, 256])
async def test_every_single_fault_of_a_courier(
    shape: str, load: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each call, each kind of fault: nothing lost, nothing doubled, the tally exact.

    With a load of two messages a parcel crosses in parts, and may be there in part only.
    """
    monkeypatch.setattr(courier_module, "LOAD_MESSAGES", load)
    silence_the_dead()
    road = laid(shape)
    await road.live()
    calls = len(road.tape.calls)
    assert calls >= 5
    for number in range(1, calls + 1):
        for kind in KINDS:
            await enact({number: kind}, shape)


@pytest.mark.timeout(120)
async def test_random_walks_of_couriers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many faults, two nodes in turn; the seed in the message repeats a failure."""
    monkeypatch.setattr(courier_module, "LOAD_MESSAGES", 2)
    silence_the_dead()
    seed = int(os.environ.get("SBX_SEED", "0")) or random.SystemRandom().randrange(1 << 30)
    for walk in range(WALKS):
        chance = random.Random(seed + walk)  # noqa: S311 - a walk, not a secret
        calls = sorted(chance.sample(range(1, 80), chance.randint(2, 8)))
        try:
            shape = chance.choice(SHAPES)
            await enact({call: chance.choice(KINDS) for call in calls}, shape)
        except AssertionError as error:
            raise AssertionError(f"SBX_SEED={seed} walk {walk}: {error}") from error
