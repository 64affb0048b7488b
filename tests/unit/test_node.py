"""The node: its chores go on whatever happens to what they look at."""

import asyncio
import contextlib
import time
from pathlib import Path

import pytest
from aiofiles import os as aios
from unit.digging import pit

from scalebox_actors import reaper, trees
from scalebox_actors.launch import workdir
from scalebox_actors.message import Message
from scalebox_actors.names import Names
from scalebox_actors.node import Node, Settings
from scalebox_actors.ports import Task
from scalebox_actors.testing.memory import MemoryBroker
from scalebox_actors.testing.scripted import Host, ScriptedRuntime
from scalebox_actors.topology.model import Link, Module, Site, Topology


def node_on(base: Path) -> Node:
    """Return a node with one module on doubles, started long ago."""
    topology = Topology(name="t", modules={"a": Module(name="a", image="i", command=("p",))})
    broker = MemoryBroker(Names("t"), ["a"])
    runtime = ScriptedRuntime(Host(program=lambda _, __: 0))
    node = Node(topology, broker, runtime, Settings(name="n1", base=base))
    node.since = 0.0
    return node


async def test_the_reaper_gets_over_directories_that_go_while_it_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task may end between the look at all work directories and the look at its own."""
    node = node_on(tmp_path)
    left = tmp_path / "sbx-t.left"
    left.mkdir()

    async def listed(_: Path) -> list[str]:
        return ["sbx-t.gone", left.name]

    monkeypatch.setattr(aios, "listdir", listed)
    monkeypatch.setattr(reaper, "REAPER_GRACE", -1.0)
    await node.reap()

    assert not left.exists()


async def test_what_cannot_be_removed_keeps_the_reaper_from_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Folders that this user has no right to are told of; all others are still looked at."""
    (tmp_path / f"{workdir.GONE}1.sbx-t.root").mkdir()
    (tmp_path / "sbx-t.left").mkdir()
    real = trees.remove_tree

    def refused(path: Path) -> None:
        if path.name.endswith("root"):
            raise PermissionError(1, "Operation not permitted", str(path))
        real(path)

    monkeypatch.setattr(trees, "remove_tree", refused)
    monkeypatch.setattr(reaper, "REAPER_GRACE", -1.0)
    await node_on(tmp_path).reap()

    assert await aios.listdir(tmp_path) == [f"{workdir.GONE}1.sbx-t.root"]
    assert "directories_left" in caplog.messages


async def test_a_chore_that_the_host_refuses_ends_no_node(tmp_path: Path) -> None:
    """It is reported, and tried again at its next turn."""
    tries = asyncio.Queue[int]()

    async def refused() -> None:
        tries.put_nowait(1)
        raise OSError(5, "Input/output error")

    chore = asyncio.create_task(node_on(tmp_path)._every(0.001, refused, first=0.0))
    for _ in range(2):
        await tries.get()
    chore.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await chore

    assert chore.cancelled()


async def test_a_chore_with_a_bug_ends_no_node(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is reported with where it happened."""

    async def wrong() -> None:
        raise RecursionError("a bug of ours")

    await node_on(tmp_path)._chore(wrong)

    (told,) = caplog.records
    assert (told.message, told.exc_info is not None) == ("chore_failed", True)


@pytest.mark.parametrize("name", [f"{workdir.GONE}1.sbx-t.left", "sbx-t.left"])
async def test_a_deep_directory_is_reaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """No program can leave one that ends the node, and each life of it that comes later."""
    monkeypatch.setattr(reaper, "REAPER_GRACE", -1.0)
    with pit(tmp_path / name) as left:
        await node_on(tmp_path).reap()

        assert not left.exists()


async def test_the_reaper_leaves_what_was_made_in_its_own_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task may come back between the looks: the directory that it has made stays."""
    node = node_on(tmp_path)
    made = workdir.WorkDir(tmp_path, "sbx-t.again", 1, "n1")
    monkeypatch.setattr(node, "since", made_before(made))
    await node.reap()

    assert made.path.exists()


async def test_the_reaper_leaves_what_is_taken_in_hand_while_it_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that comes at the last moment finds its directory where it was."""
    node = node_on(tmp_path)
    made = workdir.WorkDir(tmp_path, "sbx-t.again", 1, "n1")
    node.since = made_before(made) + 3600
    held = iter([False, True])
    monkeypatch.setattr(node.actors["a"], "holds", lambda _: next(held))
    await node.reap()

    assert made.path.exists()


async def test_the_nodes_of_a_site_share_its_link(tmp_path: Path) -> None:
    """Each takes an equal part; a node that has gone leaves its part to the others."""
    sites = {
        "hub": Site(name="hub", hub=True, link=Link(rate=100.0)),
        "b": Site(name="b"),
    }
    topology = Topology(name="t", sites=sites, modules={"a": Module(name="a", sites=("b",))})
    broker = MemoryBroker(Names("t", "hub"), [])
    nodes = [
        Node(topology, broker, None, Settings(name=f"n{n}", base=tmp_path / f"{n}"))
        for n in range(2)
    ]
    rooms = []
    for node in nodes:
        await node._register()
        await node._share()
    await nodes[0]._share()
    rooms.append([node._toll.room(999, 999, 1.0)[0] for node in nodes])
    await nodes[1]._register(life=1.0)
    broker.advance(2)
    await nodes[0]._share()
    nodes[0]._toll.pay(12, 0, 1.0)
    rooms.append([nodes[0]._toll.room(999, 999, 2.0)[0]])

    assert rooms == [[12, 12], [25]]


def made_before(directory: workdir.WorkDir) -> float:
    """Prepare a work directory, and return a moment before that."""
    before = time.time() - 1
    directory.prepare(Task(message=Message(module="a", id="m1", body=b"x")))
    return before
