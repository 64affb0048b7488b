"""How programs that stay come to an end: death, time limits, age, a person, the node's own."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from contract.laboratory import KINDS
from contract.residents import BEATING, READY, Lab, act, ask, resident_lab, sent, task, until

from scalebox_actors.errors import NotAdmitted
from scalebox_actors.records import Cause, Outcome
from scalebox_actors.topology.model import Duration, Keep

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(params=KINDS)
async def lab(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Lab]:
    """Return a host with the runtime in question; nothing may be left on it afterwards."""
    async with resident_lab(request, tmp_path) as made:
        yield made


async def test_who_dies_alone_is_to_blame(lab: Lab) -> None:
    """A message whose program ends while it has nothing else gets its exit code and its words."""
    launcher = lab.launcher()
    died, after = await ask(launcher, "die 7", "life")

    assert (died.exit_code, died.cause) == (7, Cause.EXIT)
    assert "dying of" in died.stderr.text
    assert after.exit_code == 0


async def test_neighbours_are_not_to_blame(lab: Lab) -> None:
    """Of several messages in a program that ends, the one that ends it again alone is found."""
    launcher = lab.launcher(READY)
    first, poison, last = await ask(launcher, "a", "die 9", "b")

    assert (sent(first), poison.exit_code, sent(last)) == (["a"], 9, ["b"])


async def test_poison_that_comes_again_is_alone(lab: Lab) -> None:
    """A task that has ended a program gets one for itself, so its retries cost nobody a run."""
    launcher = lab.launcher(READY)
    bad = task("die 3")
    await launcher.run(bad)
    again, *others = await asyncio.gather(
        launcher.run(bad), *(launcher.run(task("life")) for _ in range(3))
    )

    assert again.exit_code == 3
    assert {outcome.exit_code for outcome in others} == {0}


async def test_a_timeout_ends_the_program_and_blames_one(lab: Lab) -> None:
    """A message that takes too long gets 124; what waited behind it in the program runs again."""
    launcher = lab.launcher(READY, timeout=2)
    hung, behind = await ask(launcher, "hang", "a")

    assert (hung.exit_code, hung.cause) == (124, Cause.TIMEOUT)
    assert sent(behind) == ["a"]


async def test_a_program_that_closes_its_pipes(lab: Lab) -> None:
    """A program that says nothing any more is found out by the time limit."""
    launcher = lab.launcher(timeout=2)
    (outcome,) = await ask(launcher, "raw exec <&- >&-; sleep 1000")
    (after,) = await ask(launcher, "a")

    assert (outcome.exit_code, sent(after)) == (124, ["a"])


async def test_a_promised_beat_is_asked_for(lab: Lab) -> None:
    """A program that promised beats and gives none is ended long before the time limit."""
    beats = act("""for i in 1 2 3 4; do sleep 1; printf '{"beat":"%s"}\\n' "$id"; done; answer""")
    launcher = lab.launcher(beats + BEATING)
    beating, hung = await ask(launcher, "raw act", "hang")

    assert beating.exit_code == 0
    assert (hung.exit_code, hung.detail) == (124, "ended after 3 s without a beat")


async def test_pings_keep_a_program_at_rest(lab: Lab) -> None:
    """A program that answers pings lives on; it has nothing to do for longer than it may hush."""
    launcher = lab.launcher(BEATING)
    (before,) = await ask(launcher, "life")
    await asyncio.sleep(4)
    (after,) = await ask(launcher, "life")

    assert sent(before) == sent(after)


async def test_an_end_without_an_answer(lab: Lab) -> None:
    """A program may end with 0 between messages; with one in it, that is unusable, not success."""
    launcher = lab.launcher()
    polite, rude = await ask(launcher, "raw answer; exit 0", "die 0")
    (after,) = await ask(launcher, "a")

    assert polite.exit_code == 0
    assert (rude.exit_code, rude.cause) == (120, Cause.BAD_OUTPUT)
    assert after.exit_code == 0


async def test_recycled_after_so_many_runs(lab: Lab) -> None:
    """With `keep.runs` a program gets so many messages and another takes its place."""
    launcher = lab.launcher(READY, keep=Keep(runs=3))
    lives = [sent(outcome)[0] for outcome in await ask(launcher, *["life"] * 7)]

    assert sorted(lives.count(life) for life in set(lives)) == [1, 3, 3]


async def test_recycled_by_age_and_idleness(lab: Lab) -> None:
    """A program that is old, or that nobody needs, ends; the next message starts another."""
    old = lab.launcher(keep=Keep(age=Duration(1)))
    idle = lab.launcher(keep=Keep(idle=Duration(1)))
    await asyncio.gather(ask(old, "a"), ask(idle, "a"))
    await until(lambda: old.states == idle.states == {"OFF": 1})
    (again,), (too,) = await asyncio.gather(ask(old, "a"), ask(idle, "b"))

    assert (sent(again), sent(too)) == (["a"], ["b"])


async def test_a_container_that_vanishes(lab: Lab) -> None:
    """Nobody is to blame for a container that was ended from outside: its messages run again."""
    launcher = lab.launcher(READY)
    await ask(launcher, "a")
    running = asyncio.gather(*(launcher.run(task("raw sleep 1; answer")) for _ in range(3)))
    await until(lambda: launcher.states == {"ON": 1})
    (name,) = await lab.names()
    await lab.runtime.remove(name)

    assert [outcome.exit_code for outcome in await running] == [0, 0, 0]


async def test_stop_ends_one_and_repeats_the_others(lab: Lab) -> None:
    """A run that a person ends is over; what its program had besides runs again."""
    launcher = lab.launcher(READY)
    doomed = task("hang")
    running = asyncio.create_task(launcher.run(doomed))
    beside = asyncio.create_task(launcher.run(task("a")))
    await until(lambda: launcher.states == {"ON": 1})
    await asyncio.sleep(0.1)
    await launcher.stop(doomed)

    assert (await running).exit_code == 137
    assert sent(await beside) == ["a"]


async def test_stop_of_one_that_waits(lab: Lab) -> None:
    """A message that no program has yet is not given to any once a person has ended it."""
    launcher = lab.launcher()
    first = asyncio.create_task(launcher.run(task("raw sleep 1; answer")))
    waiting = task("a")
    second = asyncio.create_task(launcher.run(waiting))
    await asyncio.sleep(0)
    await launcher.stop(waiting)

    assert (await second).exit_code == 137
    assert (await first).exit_code == 0


async def test_when_the_node_ends(lab: Lab) -> None:
    """An answer that still comes counts; the rest is not admitted, once its program has ended."""
    launcher = lab.launcher(slots=2)
    bodies = ("raw sleep 0.5; answer", "hang", "waits")
    runs = [asyncio.create_task(launcher.run(task(body))) for body in bodies]
    left: list[list[str]] = []

    async def look() -> None:
        await asyncio.wait([runs[1]])
        left.append(await lab.names())

    looking = asyncio.create_task(look())
    await until(lambda: launcher.states == {"ON": 2})
    await launcher.close()
    answered, *others = await asyncio.gather(*runs, return_exceptions=True)
    await looking

    assert isinstance(answered, Outcome)
    assert answered.exit_code == 0
    assert [type(other) for other in others] == [NotAdmitted, NotAdmitted]
    assert left == [[]]


async def test_what_may_still_be_at_work_is_not_given_back(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a message whose program nobody saw ending, nothing is said when the node ends."""
    monkeypatch.setattr("scalebox_actors.launch.resident.STOP_GRACE", 0.0)
    launcher = lab.launcher()
    run = asyncio.create_task(launcher.run(task("hang")))
    await until(lambda: launcher.states == {"ON": 1})
    await launcher.close()
    _, pending = await asyncio.wait([run], timeout=0.1)
    run.cancel()

    assert pending == {run}
