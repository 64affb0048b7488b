"""A name is the lock: what every runtime promises of runs that are asked for, found and renamed."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from contract.laboratory import KINDS
from contract.wordlab import Lab, word_lab

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(params=("scripted", *KINDS))
async def lab(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Lab]:
    """Return a host with the runtime in question."""
    async with word_lab(request, tmp_path) as made:
        yield made


async def test_asking_again_adopts(lab: Lab) -> None:
    """The same spec gives the same run, while it runs and when it has ended."""
    runtime = await lab.node()
    spec = lab.spec("sleep")

    first = await runtime.adopt_or_start(spec)
    second = await runtime.adopt_or_start(spec)
    await first.stop(0.1)
    ends = [await first.wait(), await second.wait()]
    third = await runtime.adopt_or_start(spec)

    assert [first.adopted, second.adopted, third.adopted] == [False, True, True]
    assert ends[0] == ends[1]
    assert (await third.wait()).code == ends[0].code


async def test_six_at_once_start_one(lab: Lab) -> None:
    """The name is the lock: of callers at the same moment one starts, the others adopt."""
    nodes = [await lab.node() for _ in range(2)]
    spec = lab.spec("sleep")

    runs = await asyncio.gather(*(nodes[i % 2].adopt_or_start(spec) for i in range(6)))

    assert sorted(run.adopted for run in runs) == [False] + [True] * 5
    assert len(await nodes[0].stray({"sbx.topology": lab.topology})) == 1


async def test_a_running_run_survives_its_node(lab: Lab) -> None:
    """A node that is started again adopts what runs, and learns how it ends."""
    node = await lab.node()
    spec = lab.spec("sleep")
    await node.adopt_or_start(spec)
    await lab.kill_node(node)

    again = await lab.node()
    run = await again.adopt_or_start(spec)
    await run.stop(0.1)

    assert run.adopted
    assert (await run.wait()).code in (137, 143)


async def test_an_end_in_the_nodes_absence_is_kept(lab: Lab) -> None:
    """A run that ends while there is no node is adopted with its code, files and log."""
    node = await lab.node()
    spec = lab.spec("print", "3")
    await node.adopt_or_start(spec)
    await lab.kill_node(node)

    again = await lab.node()
    run = await again.find(spec.name)
    assert run is not None
    end, logs = await run.wait(), await run.logs(1000)

    assert (end.code, end.lost) == (0, False)
    assert (logs.stdout, logs.stderr) == (b"line 0\nline 1\nline 2\n", b"e\n")


@pytest.mark.parametrize("word", ["sleep", "exit"])
async def test_an_earlier_attempt_gives_way(lab: Lab, word: str) -> None:
    """A run of an earlier attempt is removed, living or not, and the new one started."""
    runtime = await lab.node()
    old = await runtime.adopt_or_start(lab.spec(word, "7"))
    if word == "exit":
        await old.wait()

    new = await runtime.adopt_or_start(lab.spec("exit", "3", attempt=2))

    assert not new.adopted
    assert (await new.wait()).code == 3
    assert len(await runtime.stray({"sbx.topology": lab.topology})) == 1


async def test_a_later_attempt_is_not_undone(lab: Lab) -> None:
    """A caller that is late with an old attempt of the same work gets the newer run."""
    runtime = await lab.node()
    newer = lab.spec("sleep", attempt=2)
    await runtime.adopt_or_start(newer)

    labels = {**newer.labels, "sbx.attempt": "1"}
    late = await runtime.adopt_or_start(msgspec.structs.replace(newer, labels=labels))

    assert late.adopted
    assert (await runtime.stray({"sbx.topology": lab.topology}))[0].labels["sbx.attempt"] == "2"


async def test_another_work_directory_is_another_run(lab: Lab) -> None:
    """A run whose outputs lie elsewhere is nobody's to adopt: its outputs would be lost."""
    runtime = await lab.node()
    await runtime.adopt_or_start(lab.spec("sleep"))
    elsewhere = lab.spec("exit", "0", name="two").work

    spec = msgspec.structs.replace(lab.spec("exit", "4"), work=elsewhere)
    run = await runtime.adopt_or_start(spec)

    assert not run.adopted
    assert (await run.wait()).code == 4


async def test_find_of_nothing(lab: Lab) -> None:
    """There is no run of a name that was never started."""
    runtime = await lab.node()

    assert await runtime.find(f"sbx-{lab.topology}.m.nothing") is None


async def test_a_renamed_run_is_found_by_its_new_name(lab: Lab) -> None:
    """A run in somebody's hands goes by its new name, runs on and tells its end as before."""
    runtime = await lab.node()
    old, new = lab.spec("sleep"), lab.spec("sleep", name="two").name
    run = await runtime.adopt_or_start(old)

    assert await runtime.rename(old.name, new)
    found = await runtime.find(new)

    assert (run.name, await runtime.find(old.name)) == (new, None)
    assert found is not None
    await found.stop(0.1)
    assert (await run.wait()).code == (await found.wait()).code
    assert [stray.name for stray in await runtime.stray({"sbx.topology": lab.topology})] == [new]


async def test_an_ended_run_can_be_renamed(lab: Lab) -> None:
    """Its exit code and what it printed come along; removed by its new name, it is gone."""
    runtime = await lab.node()
    old, new = lab.spec("print", "3"), lab.spec("print", name="two").name
    await (await runtime.adopt_or_start(old)).wait()

    assert await runtime.rename(old.name, new)
    run = await runtime.find(new)

    assert run is not None
    assert ((await run.wait()).code, (await run.logs(1000)).stdout[:7]) == (0, b"line 0\n")
    await runtime.remove(new)
    assert await runtime.stray({"sbx.topology": lab.topology}) == []


async def test_a_new_name_outlives_the_node(lab: Lab) -> None:
    """A node that is started again finds a renamed run by its new name, and adopts it."""
    node = await lab.node()
    old, new = lab.spec("sleep"), lab.spec("sleep", name="two")
    await node.adopt_or_start(old)
    assert await node.rename(old.name, new.name)
    await lab.kill_node(node)

    again = await lab.node()
    assert await again.find(old.name) is None
    run = await again.find(new.name)
    assert run is not None
    await run.stop(0.1)

    assert (await run.wait()).code in (137, 143)


async def test_a_taken_name_is_refused(lab: Lab) -> None:
    """The name is the lock: of two runs that want one name at the same moment, one gets it."""
    nodes = [await lab.node() for _ in range(2)]
    specs = [lab.spec("sleep", name=name) for name in ("one", "two")]
    for spec in specs:
        await nodes[0].adopt_or_start(spec)
    new = lab.spec("sleep", name="three").name

    won = await asyncio.gather(
        *(node.rename(spec.name, new) for node, spec in zip(nodes, specs, strict=True))
    )

    assert sorted(won) == [False, True]
    left = {stray.name for stray in await nodes[0].stray({"sbx.topology": lab.topology})}
    assert left == {new, specs[won.index(False)].name}


async def test_a_name_that_is_not_there_cannot_be_given_up(lab: Lab) -> None:
    """Who wants to rename a run that has gone is told so."""
    runtime = await lab.node()
    spec = lab.spec("sleep")

    assert not await runtime.rename(spec.name, lab.spec("sleep", name="two").name)
