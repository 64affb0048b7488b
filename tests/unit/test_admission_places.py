"""What finds no room on a node: held for a moment, given back, its place kept and given up."""

import asyncio
from pathlib import Path

import pytest
from unit.stand import Machine, Stand, module, patience, until

from scalebox_actors.pool import Room, Share


async def test_what_comes_without_room_goes_straight_back(tmp_path: Path) -> None:
    """An idle module had asked for three; others use the room, so one stays to wait."""
    stand = Stand(tmp_path, module("a", slots=3, cpus=1), module("b", slots=3, cpus=1))
    machine = Machine()
    async with stand.node(machine, Room(millicpus=3000)) as node:
        await until(lambda: stand.granted("b") == 3)
        stand.send("a", "a1", "a2")
        await until(lambda: len(machine.now) == 2)
        asked = stand.granted("b")
        stand.send("b", "b1", "b2", "b3")
        await until(lambda: len(machine.now) == 3 and node.pool.in_use.waiting == 1)
        await until(lambda: len(node.actors["b"]._hands) == 2)
        more = stand.granted("b")
        machine.let_all_go()
        await until(lambda: len(stand.done()) == 5)

    assert (asked, more) == (3, 0)
    assert machine.most_cpus == 3
    assert len(machine.host.starts) == 5


async def test_a_message_without_room_goes_to_another_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node holds it for a moment only; the other one runs it, and the first asks no more."""
    patience(monkeypatch, held=0.01)
    stand = Stand(tmp_path, module("a", slots=2, cpus=1))
    full, free, room = Machine(), Machine(), Room(millicpus=1000)
    async with stand.node(full, room) as first:
        stand.send("a", "one", "two")
        await until(lambda: first.pool.in_use.waiting == 1 and stand.granted("a") == 0)
        await until(lambda: len(first.actors["a"]._hands) == 1)
        async with stand.node(free, room, name="n2"):
            await until(lambda: free.now)
            free.let_all_go()
            await until(lambda: len(stand.done()) == 1)

    assert (len(full.host.starts), len(free.host.starts)) == (1, 1)


async def test_a_place_that_is_kept_gets_its_message_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message went back, the place stayed: when there is room it is asked for again."""
    patience(monkeypatch, held=0.01)
    stand, machine = Stand(tmp_path, module("a", slots=2, cpus=1)), Machine()
    async with stand.node(machine, Room(millicpus=1000)) as node:
        stand.send("a", "one", "two")
        await until(lambda: node.actors["a"]._admission._place is not None)
        await until(lambda: len(node.actors["a"]._hands) == 1)
        machine.let_all_go()
        await until(lambda: len(stand.done()) == 2)

    assert node.pool.in_use.taken == Share()


async def test_a_place_without_a_message_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If another node took the message, whoever stands behind the place is let in."""
    patience(monkeypatch, held=0.01, rest=0.01, turn=0.02)
    stand = Stand(tmp_path, module("large", cpus=2), module("small", cpus=1))
    machine = Machine()
    async with stand.node(machine, Room(millicpus=2000)) as node:
        stand.send("small", "s1")
        await until(lambda: machine.running() == ["s1"])
        stand.send("large", "big")
        await until(lambda: node.actors["large"]._admission._place is not None)
        await stand.broker.purge("sbx.t.local.task.large")
        stand.send("small", "s2")
        await until(lambda: machine.running() == ["s1", "s2"])
        await until(lambda: node.actors["large"]._admission._place is None)
        machine.let_all_go()
        await until(lambda: len(stand.done()) == 2)

    assert node.pool.in_use.waiting == 0


async def test_a_turn_without_a_message_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept for a place is kept for a moment only, and then free for all."""
    patience(monkeypatch, held=0.01, turn=0.02)
    stand, machine = Stand(tmp_path, module("a", slots=2, cpus=1)), Machine()
    async with stand.node(machine, Room(millicpus=1000)) as node:
        stand.send("a", "one", "two")
        await until(lambda: node.actors["a"]._admission._place is not None)
        await until(lambda: len(node.actors["a"]._hands) == 1)
        await stand.broker.purge("sbx.t.local.task.a")
        machine.let_all_go()
        await until(lambda: node.pool.in_use.taken == Share())

    assert node.pool.in_use.waiting == 0


async def test_a_drain_does_not_wait_for_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for room goes back and keeps no place; the drain ends with what runs."""
    patience(monkeypatch, held=0.01)
    stand, machine = Stand(tmp_path, module("a", slots=2, cpus=1)), Machine()
    async with stand.node(machine, Room(millicpus=1000)) as node:
        stand.send("a", "one", "two")
        await until(lambda: node.pool.in_use.waiting == 1)
        drain = asyncio.create_task(node.drain())
        await until(lambda: node.pool.in_use.waiting == 0)
        machine.let_all_go()
        await drain

    assert stand.done() == ["one"]


async def test_a_drain_starts_nothing_that_waits(tmp_path: Path) -> None:
    """However long it may stand in line: when room falls free, who waited has gone back."""
    stand, machine = Stand(tmp_path, module("a", slots=2, cpus=1)), Machine()
    async with stand.node(machine, Room(millicpus=1000)) as node:
        stand.send("a", "one", "two")
        await until(lambda: node.pool.in_use.waiting == 1)
        drain = asyncio.create_task(node.drain())
        await asyncio.sleep(0)
        machine.let_all_go()
        await drain

    assert stand.done() == ["one"]
