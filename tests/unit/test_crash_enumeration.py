"""A node dies, or a call lies, at every call it makes: nothing is lost and nothing is doubled.

FAULTS section 3 as a program: for every call of a scenario and every kind of fault the scenario
is lived again; then all single faults, pairs of them, and long random walks.
"""

import asyncio
import itertools
import os
import random
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from unit.crashworld import NAMES, World, count_calls, entry_of, silence_the_dead, told
from unit.gatekeeper import Gatekeeper

from scalebox_actors import actor
from scalebox_actors.launch.pipes import Pipes
from scalebox_actors.launch.workdir import WorkDir
from scalebox_actors.message import MSG_TTL
from scalebox_actors.records import Ended
from scalebox_actors.spec import ContainerSpec
from scalebox_actors.testing.scripted import Host
from scalebox_actors.testing.tape import Fault, Killed
from scalebox_actors.topology.model import Gather, Launch, Module, Retry, Topology

KINDS = list(Fault)
WALKS = int(os.environ.get("SBX_WALKS", "60"))
PAIRS = int(os.environ.get("SBX_PAIRS", "100"))

Make = Callable[[dict[int, Fault] | None], World]
Plan = Callable[[Path, dict[int, Fault] | None], World]


@pytest.fixture(autouse=True)
def no_real_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that does not answer is asked again at once: there is no real time here."""
    monkeypatch.setattr(actor, "ENGINE_PAUSES", (0.0,))


@pytest.fixture(autouse=True)
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a thread does is done at once: no thread of a dead process goes on working."""

    async def at_once(work: Callable[..., object], *args: object) -> object:
        await asyncio.sleep(0)
        return work(*args)

    monkeypatch.setattr(asyncio, "to_thread", at_once)


def container(spec: ContainerSpec, work: Path) -> int:
    """Emit two outputs, as a program in a container does."""
    body = spec.command[1]
    (work / "sink-tasks.jsonl").write_text(f'{{"body":"{body}-1"}}\n{{"body":"{body}-2"}}\n')
    return 0


def fails_first(spec: ContainerSpec, work: Path) -> int:
    """Fail in the first run and succeed in the second."""
    del work
    return 75 if spec.labels["sbx.attempt"] == "1" else 0


def fresh(program: Callable[[ContainerSpec, Path], int], retry: Retry | None = None) -> Plan:
    """One task in a container of its own."""

    def make(base: Path, faults: dict[int, Fault] | None) -> World:
        module = Module(name="a", image="i", command=("p",), retry=retry)
        world = World(
            Topology(name="t", modules={"a": module}), Host(program=program), base, faults
        )
        world.broker.send("a", b"x", {"Nats-Msg-Id": "m1"})
        return world

    return make


async def _brief(spec: ContainerSpec, work: Path) -> int:
    """Take a few turns of the loop, so that others come to wait, and emit two outputs."""
    for _ in range(5):
        await asyncio.sleep(0)
    return container(spec, work)


def lane(base: Path, faults: dict[int, Fault] | None) -> World:
    """Three tasks for one slot, on a host where they take turns by themselves."""
    module = Module(name="a", image="i", command=("p",))
    world = World(Topology(name="t", modules={"a": module}), Host(program=_brief), base, faults)
    world.lanes = True
    for number in (1, 2, 3):
        world.broker.send("a", b"x%d" % number, {"Nats-Msg-Id": f"m{number}"})
    return world


def warm(base: Path, faults: dict[int, Fault] | None) -> World:
    """One task, and a container that waits for it."""
    keeper = Gatekeeper(container)
    module = Module(name="a", image="i", command=("p",), warm=1)
    world = World(Topology(name="t", modules={"a": module}), Host(program=keeper), base, faults)
    keeper.host = world.host
    world.broker.send("a", b"x", {"Nats-Msg-Id": "m1"})
    return world


def function(name: str, **more: object) -> Module:
    """A module that runs one of the functions beside this file."""
    attribute = more.pop("attribute", "once")
    return Module(
        name=name,
        function=f"crash_functions:{attribute}",
        launch=Launch.FUNCTION,
        slots=8,
        **more,  # type: ignore[arg-type]  # fields of a module
    )


def trio(base: Path, faults: dict[int, Fault] | None) -> World:
    """Three tasks that share a group; somebody else has committed the second."""
    topology = Topology(name="t", modules={"a": function("a", attribute="twice")})
    world = World(topology, Host(program=container), base, faults)
    done = entry_of(NAMES.done("a", "m2"))
    world.broker.shelf.store(done.subject, done.body, {})
    for number in (1, 2, 3):
        world.broker.send("a", b"x%d" % number, {"Nats-Msg-Id": f"m{number}"})
    return world


def fan_in(base: Path, faults: dict[int, Fault] | None) -> World:
    """One task that becomes two members of a group, which become one joined task."""
    topology = Topology(
        name="t",
        modules={
            "a": function("a", attribute="twice", sinks=("g",)),
            "g": function("g", gather=Gather(by="root", count=2)),
        },
    )
    world = World(topology, Host(program=container), base, faults)
    world.broker.send("a", b"x", {"Nats-Msg-Id": "m1"})
    return world


def check_fresh(world: World) -> None:
    """Done once, both outputs once, nothing run twice on this host."""
    assert world.waiting() == []
    assert {key: record.ended for key, record in world.records().items()} == {"a.m1": Ended.DONE}
    assert world.bodies(NAMES.result("a")) == [b"x-1", b"x-2"]
    assert len(world.host.starts) == 1


def check_lane(world: World) -> None:
    """Each done once, all outputs once, nothing run twice on this host."""
    assert world.waiting() == []
    assert {key: record.ended for key, record in world.records().items()} == dict.fromkeys(
        ("a.m1", "a.m2", "a.m3"), Ended.DONE
    )
    assert world.bodies(NAMES.result("a")) == [
        b"x%d-%d" % (n, k) for n in (1, 2, 3) for k in (1, 2)
    ]
    assert len(world.host.starts) == len(set(world.host.starts)) == 3


def check_warm(world: World) -> None:
    """Done once, both outputs once, run once on this host: ahead or not, whatever died when."""
    assert world.waiting() == []
    assert {key: record.ended for key, record in world.records().items()} == {"a.m1": Ended.DONE}
    assert world.bodies(NAMES.result("a")) == [b"x-1", b"x-2"]
    assert isinstance(world.host.program, Gatekeeper)
    assert world.host.program.runs == ["x"]


def check_retry(world: World) -> None:
    """Done once, after one failing run; a kill between verdict and nak may cost one more."""
    assert world.waiting() == []
    assert {key: record.ended for key, record in world.records().items()} == {"a.m1": Ended.DONE}
    assert 2 <= len(world.host.starts) <= 3


def check_trio(world: World) -> None:
    """The two that were free are done once with their outputs, the third is left as it was."""
    assert world.waiting() == []
    assert {key: record.node for key, record in world.records().items()} == {
        "a.m1": "n1",
        "a.m2": "other",
        "a.m3": "n1",
    }
    assert world.bodies(NAMES.result("a")) == [b"x1-1", b"x1-2", b"x3-1", b"x3-2"]


def check_fan_in(world: World) -> None:
    """One joined task, one result, no member left, and a count that says so for a while."""
    assert world.waiting() == []
    assert len(world.records()) == 4
    assert world.bodies(NAMES.member("g", "*", "*")) == []
    (count,) = world.broker.messages(NAMES.group("g", "*"))
    assert MSG_TTL in count.headers
    (result,) = [msgspec.json.decode(body) for body in world.bodies(NAMES.result("g"))]
    assert (result["group"], sorted(result["members"])) == ("m1", ["x-1", "x-2"])


SCENARIOS: dict[str, tuple[Plan, Callable[[World], None]]] = {
    "fresh": (fresh(container), check_fresh),
    "lane": (lane, check_lane),
    "warm": (warm, check_warm),
    "retry": (fresh(fails_first, Retry(rules={"75": 5})), check_retry),
    "group-of-three": (trio, check_trio),
    "fan-in": (fan_in, check_fan_in),
}


async def enact(make: Make, check: Callable[[World], None], faults: dict[int, Fault]) -> None:
    """Live a scenario with faults, then check it and what it left behind."""
    world = make(faults)
    with told(faults, world):
        await world.live()
        await world.sweep()
        check(world)
        assert world.leftovers() == []


@pytest.fixture(params=SCENARIOS)
def scenario(
    request: pytest.FixtureRequest, tmp_path: Path
) -> tuple[Make, Callable[[World], None]]:
    """A scenario, each time in a folder of its own, and its check."""
    make, check = SCENARIOS[request.param]
    numbers = itertools.count()

    def anew(faults: dict[int, Fault] | None) -> World:
        return make(tmp_path / str(next(numbers)), faults)

    return anew, check


@pytest.mark.timeout(120)
async def test_every_single_fault(
    scenario: tuple[Make, Callable[[World], None]],
) -> None:
    """At each call, each kind of fault: lost 0, doubled 0, nothing left behind."""
    make, check = scenario
    silence_the_dead()
    calls = await count_calls(make)
    assert calls > 5
    for number in range(1, calls + 1):
        for kind in KINDS:
            await enact(make, check, {number: kind})


@pytest.mark.timeout(240)
async def test_pairs_of_faults(
    scenario: tuple[Make, Callable[[World], None]],
) -> None:
    """Two faults, the second in what the first made necessary: drawn evenly from all pairs."""
    make, check = scenario
    silence_the_dead()
    calls = await count_calls(make) + 8
    pairs = [
        {first: one, second: other}
        for first, second in itertools.combinations(range(1, calls + 1), 2)
        for one in KINDS
        for other in KINDS
    ]
    step = max(1, len(pairs) // PAIRS)
    for faults in pairs[::step]:
        await enact(make, check, faults)


@pytest.mark.timeout(240)
async def test_random_walks(
    scenario: tuple[Make, Callable[[World], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many faults in one scenario; the seed in the message repeats a failure."""
    make, check = scenario
    # A walk may hit every start of a task, which then is poison, and rightly so.
    monkeypatch.setattr("scalebox_actors.policy.STARTS_PER_TASK", 100)
    silence_the_dead()
    calls = await count_calls(make)
    seed = int(os.environ.get("SBX_SEED", "0")) or random.SystemRandom().randrange(1 << 30)
    for walk in range(WALKS):
        chance = random.Random(seed + walk)  # noqa: S311 - a walk, not a secret
        spots = chance.sample(range(1, 3 * calls), k=chance.randint(3, 6))
        faults = {spot: chance.choice(KINDS) for spot in spots}
        try:
            await enact(make, check, faults)
        except AssertionError as error:
            raise AssertionError(f"SBX_SEED={seed + walk}: {error}") from error


def test_the_world_can_fail(tmp_path: Path) -> None:
    """The checks are no decoration: a node that acks before it commits is found out."""

    async def ack_first() -> None:
        silence_the_dead()
        world = trio(tmp_path, {4: Fault.KILL})
        for stored in world.broker.messages("sbx.t.local.task.*")[:1]:
            world.broker.remove(stored.sequence)
        await world.live()
        check_trio(world)

    with pytest.raises(AssertionError):
        asyncio.run(ack_first())


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("owner", "step"), [(WorkDir, "take_over"), (WorkDir, "open_door"), (Pipes, "say")]
)
async def test_death_between_a_name_and_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type, step: str, late: bool
) -> None:
    """A node dies around each step of letting a task in that is no call: the task is run once."""
    silence_the_dead()
    world = warm(tmp_path, None)
    real, deaths = getattr(owner, step), []

    def die() -> None:
        deaths.append(step)
        world.tape.dead = True
        raise Killed(step)

    async def say(pipes: Pipes, data: bytes) -> None:
        if not (late or deaths):
            die()
        await real(pipes, data)
        if len(deaths) == 0:
            die()

    def other(directory: WorkDir, *args: object) -> None:
        if not (late or deaths):
            die()
        real(directory, *args)
        if len(deaths) == 0:
            die()

    monkeypatch.setattr(owner, step, say if step == "say" else other)
    await world.live()
    await world.sweep()

    assert deaths == [step]
    check_warm(world)
    assert world.leftovers() == []
