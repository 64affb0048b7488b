"""Admission on doubles: whole nodes with little room, what they ask for and what they run."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from unit.stand import Machine, Stand, module, quiet, until

from scalebox_actors.pool import Pool, Room, Share


async def test_what_runs_together_fits(tmp_path: Path) -> None:
    """Four modules with forty messages on three CPUs: never more than three, and all are done."""
    claims: Mapping[str, float] = {"a": 1, "b": 2, "c": 0.5, "d": 3}
    stand = Stand(tmp_path, *(module(name, cpus=cpus) for name, cpus in claims.items()))
    machine = Machine()
    machine.free = True
    async with stand.node(machine, Room(millicpus=3000)) as node:
        for number in range(10):
            for name in claims:
                stand.send(name, f"{name}{number}")
        await until(lambda: len(stand.done()) == 40)
        await until(lambda: node.pool.in_use.taken == Share())

    assert 2 < machine.most_cpus <= 3
    assert len(machine.host.starts) == 40


async def test_no_more_is_asked_for_than_fits(tmp_path: Path) -> None:
    """Of ten messages two run, one is in hand to say that there is work, the others wait."""
    stand, machine = Stand(tmp_path, module("a", slots=8, cpus=1)), Machine()
    async with stand.node(machine, Room(millicpus=2000)):
        stand.send("a", *(f"m{n}" for n in range(10)))
        await until(lambda: len(machine.now) == 2)
        await quiet()
        backlog = await stand.broker.backlog("a")
        asked = stand.granted("a")

    assert (backlog.in_hand, backlog.waiting, asked) == (3, 7, 0)


async def test_what_fits_is_asked_for_at_once(tmp_path: Path) -> None:
    """A node with room for all slots asks for all, and so does a module that claims nothing."""
    stand = Stand(tmp_path, module("a", slots=3, cpus=1), module("b", slots=5))
    async with stand.node(Machine(), Room(millicpus=4000)):
        await until(lambda: stand.granted("a"))
        await quiet()

        assert (stand.granted("a"), stand.granted("b")) == (3, 5)


async def test_a_large_claim_gets_its_turn(tmp_path: Path) -> None:
    """Small runs that never cease do not keep a large one out: they wait behind it."""
    stand = Stand(tmp_path, module("small", cpus=1), module("large", cpus=2))
    machine = Machine()
    async with stand.node(machine, Room(millicpus=2000)):
        stand.send("small", *(f"s{n}" for n in range(9)))
        await until(lambda: len(machine.now) == 2)
        stand.send("large", "big")
        await quiet()
        while "big" not in machine.now:
            for body in machine.running():
                machine.let_go(body)
            await quiet()
        before_it = len(machine.ended)
        machine.let_all_go()
        await until(lambda: len(stand.done()) == 10)

    # The two that ran and the one small message that stood in line already.
    assert before_it == 3


async def test_what_can_never_fit_is_suspended_with_a_sentence(tmp_path: Path) -> None:
    """Nothing of it is taken, and other modules are not in its way."""
    stand = Stand(tmp_path, module("huge", cpus=64), module("a", cpus=1))
    machine = Machine()
    machine.free = True
    async with stand.node(machine, Room(millicpus=2000)) as node:
        stand.send("huge", "h")
        stand.send("a", "a1")
        await until(lambda: stand.done() == ["a1"])
        status = node.status()

    assert "needs 64, but a node may use 2 CPUs" in status.modules["huge"].suspended
    assert status.in_use.room == Room(millicpus=2000)
    assert (await stand.broker.backlog("huge")).waiting == 1


async def test_gpus_are_given_one_by_one(tmp_path: Path) -> None:
    """Runs at the same time have different ones, and each is told which."""
    stand, machine = Stand(tmp_path, module("a", slots=4, gpus=1)), Machine()
    async with stand.node(machine, Room(gpus=(0, 1, 3))):
        stand.send("a", *(f"m{n}" for n in range(6)))
        await until(lambda: len(machine.now) == 3)
        devices = sorted(spec.devices for spec in machine.now.values())
        together = sorted(machine.gpus)
        machine.let_all_go()
        await until(lambda: len(stand.done()) == 6)

    assert together == ["0", "1", "3"]
    assert devices == [("/dev/nvidia0",), ("/dev/nvidia1",), ("/dev/nvidia3",)]
    assert set(machine.gpus) == {"0", "1", "3"}


async def test_runs_of_an_earlier_life_are_counted(tmp_path: Path) -> None:
    """A node that comes back starts nothing on the GPU of a run that goes on."""
    stand, machine, room = Stand(tmp_path, module("a", slots=2, gpus=1)), Machine(), Room(gpus=(5,))
    async with stand.node(machine, room):
        stand.send("a", "old")
        await until(lambda: machine.now)
    stand.broker.crash()
    async with stand.node(machine, room) as node:
        stand.send("a", "new")
        await until(lambda: node.pool.in_use.waiting == 1)
        counted = node.pool.in_use.taken
        stand.broker.advance(61)  # the message of the old one comes again: its share is its own
        await until(lambda: stand.granted("a") == 0)
        machine.let_all_go()
        await until(lambda: len(stand.done()) == 2)

    assert counted == Share(gpus=(5,))
    assert machine.ended[0] == "old"
    assert len(machine.host.starts) == 2


async def test_a_run_of_an_earlier_life_that_ends_unseen_gives_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its message need not have come again: the node sees that it runs no more."""
    monkeypatch.setattr("scalebox_actors.node.LOOK_EVERY", 0.01)
    stand, machine, room = Stand(tmp_path, module("a", slots=2, gpus=1)), Machine(), Room(gpus=(5,))
    async with stand.node(machine, room):
        stand.send("a", "old")
        await until(lambda: machine.now)
    async with stand.node(machine, room) as node:
        await until(lambda: node.pool.left)
        machine.let_go("old")
        await until(lambda: node.pool.in_use.taken == Share())

    assert machine.ended == ["old"]


async def test_nodes_of_one_process_share_a_host(tmp_path: Path) -> None:
    """Two nodes with one pool run no more together than one alone."""
    stand = Stand(tmp_path, module("a", cpus=1))
    machines, pool = (Machine(), Machine()), Pool(Room(millicpus=1000))
    async with (
        stand.node(machines[0], pool.room, pool=pool),
        stand.node(machines[1], pool.room, name="n2", pool=pool),
    ):
        stand.send("a", "one", "two")
        await until(lambda: pool.in_use.waiting == 1 and any(m.now for m in machines))
        together = [machine.running() for machine in machines]
        for machine in machines:
            machine.let_all_go()
        await until(lambda: len(stand.done()) == 2)

    assert sorted(map(len, together)) == [0, 1]


async def test_a_twin_claims_nothing_while_the_first_runs(tmp_path: Path) -> None:
    """Two deliveries of one task take the room of one."""
    stand, machine = Stand(tmp_path, module("a", slots=3, cpus=1)), Machine()
    async with stand.node(machine, Room(millicpus=2000)) as node:
        for _ in range(2):
            stand.broker.send("a", b"twin", {"Nats-Msg-Id": "twin"})
        await until(lambda: len(node.actors["a"]._hands) == 2)
        taken = node.pool.in_use.taken.millicpus
        machine.let_all_go()
        await until(lambda: not len(node.actors["a"]._hands))

    assert taken == 1000
    assert stand.done() == ["twin"]
