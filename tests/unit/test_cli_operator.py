"""What operators type and see: ceilings, states of modules, letters that are sent again."""

from pathlib import Path
from typing import cast

import msgspec
import pytest

from scalebox_actors import operations
from scalebox_actors.cli.host import Host, address_towards, ceiling, host_name
from scalebox_actors.cli.status import State, text_of
from scalebox_actors.cli.stored import letter_fields, result_fields
from scalebox_actors.crossing import CARRIED
from scalebox_actors.effects import DETAIL, LOG_TAIL
from scalebox_actors.errors import BadInput, BadMessage
from scalebox_actors.journal import Counts
from scalebox_actors.local import Site as PlaceOfOperation
from scalebox_actors.message import HOP, JOINED, MSG_ID, PARENT, REASON, ROOT, USER, Message
from scalebox_actors.names import Names, is_name
from scalebox_actors.node import ModuleStatus, NodeStatus
from scalebox_actors.operations import Selection
from scalebox_actors.ports import Backlog, Stored
from scalebox_actors.questions import by_module, states
from scalebox_actors.spec import Ceiling, Root
from scalebox_actors.topology.model import Module, Site, Topology

LETTER = Stored(
    subject="sbx.t.local.dead.count.abc",
    body=b"7",
    headers={
        ROOT: "top", PARENT: "up", HOP: "3", JOINED: "g", CARRIED: "b",
        REASON: "exhausted", DETAIL: "exit code 3", LOG_TAIL: "oops",
    },
    sequence=42,
    time=5.0,
)  # fmt: skip


class NamesOnly:
    """A site of which only the names are asked."""

    names = Names("t")


HERE = cast("PlaceOfOperation", NamesOnly())


def test_the_ceiling_is_what_was_typed(tmp_path: Path) -> None:
    """Each flag of the operator is one field of the ceiling."""
    host = Host(
        mount_roots=(f"data={tmp_path}:rw", "lib=/srv"),
        images=("sbx/",),
        max_memory="4GiB",
        max_cpus=1.5,
        max_slots=3,
        force_read_only=True,
        force_user="1000",
        require_memory=True,
    )
    expected = Ceiling(
        images=("sbx/",),
        roots={"data": Root(path=str(tmp_path), writable=True), "lib": Root(path="/srv")},
        memory=4 * 2**30,
        cpus=1.5,
        slots=3,
        read_only=True,
        user="1000",
        require_memory=True,
    )

    assert expected == ceiling(host)


@pytest.mark.parametrize("path", ["/", "/etc", "/proc", "/dev", "/usr/../etc"])
def test_directories_of_the_system_are_no_mount_roots(path: str) -> None:
    """Also by a detour."""
    with pytest.raises(BadInput, match=r"never mounted|no such directory"):
        ceiling(Host(mount_roots=(f"data={path}",)))


def test_a_host_name_is_always_a_name() -> None:
    """Whatever the host is called, its node can be registered."""
    assert is_name(host_name())


@pytest.mark.parametrize("url", ["", "nats://127.0.0.1:4222", "nats://u:p@127.0.0.1", "127.0.0.1"])
def test_the_address_towards_a_server_on_this_host(url: str) -> None:
    """A loopback server is reached from the loopback address."""
    assert address_towards(url) == "127.0.0.1"


def node_of(name: str, done: int, suspended: str = "") -> NodeStatus:
    """Return what a node with one module says."""
    kept = {"ON": 1, "ERROR": done}
    status = ModuleStatus(slots=1, suspended=suspended, counts=Counts(done=done), containers=kept)
    return NodeStatus(
        node=name, runtime="process", since=1.0, draining=False, forgotten=0,
        modules={"count": status},
    )  # fmt: skip


def test_a_module_stands_as_server_and_nodes_say() -> None:
    """What waits is the server's to say, what was done is added up over the nodes."""
    backlogs = {"count": Backlog(5, 2, 60.0), "total": Backlog(0, 0)}
    found = states(
        "local", backlogs, [node_of("a", 3), node_of("b", 4, "no image")], ({"count": 1}, {})
    )
    state = State(topology="t", modules=found, nodes=(), now=0.0, bytes=1024, max_bytes=2048)
    actual = text_of(state)  # and without nodes nobody can tell what was done

    row = "count 5 2 - - 1 0 paused for 1m00s; slots: 7 ERROR, 2 ON; suspended: no image"
    assert actual[1].split() == row.split()
    assert "no node answers" in actual
    assert actual[-1] == "1KiB of 2KiB used by the stream"
    told = text_of(msgspec.structs.replace(state, nodes=(node_of("a", 3),)))
    assert told[1].split()[3:5] == ["7", "0"]


@pytest.mark.parametrize(
    ("launch", "words"),
    [
        ("fresh", "warm: 7 ERROR, 2 ON"),
        ("slot", "slots: 7 ERROR, 2 ON"),
        ("resident", "programs: 7 ERROR, 2 ON"),
    ],
)
def test_what_stays_is_called_what_it_is(launch: str, words: str) -> None:
    """Containers that wait and programs that read are no slots."""
    nodes = [node_of("a", 3), node_of("b", 4)]
    [found] = states("local", {"count": Backlog(0, 0)}, nodes, ({}, {}))
    module = msgspec.structs.replace(found, launch=launch)
    state = State(topology="t", modules=(module,), nodes=(), now=0.0, bytes=0, max_bytes=1)

    assert text_of(state)[1].endswith(words)


def test_counts_per_subject_become_counts_per_module() -> None:
    """A letter per id, a number per module."""
    subjects = {"sbx.t.local.dead.a.x": 1, "sbx.t.local.dead.a.y": 2, "sbx.t.local.dead.b.x": 1}

    assert by_module(subjects) == {"a": 3, "b": 1}


def test_a_letter_tells_its_reason_and_keeps_its_headers_apart() -> None:
    """What burying added is told in fields of its own."""
    actual = letter_fields(LETTER)

    assert {"module": "count", "id": "abc", "reason": "exhausted", "body": "7"}.items() <= (
        actual.items()
    )
    kept = {ROOT: "top", PARENT: "up", HOP: "3", JOINED: "g", CARRIED: "b"}
    assert actual["headers"] == kept


def test_a_result_tells_where_it_came_from() -> None:
    """Module, parent and root are there for programs."""
    stored = Stored(
        subject="sbx.t.local.result.total",
        body=b"\xff",
        headers={ROOT: "top"},
        sequence=1,
        time=2.0,
    )

    assert {"module": "total", "root": "top", "body_base64": "/w=="}.items() <= (
        result_fields(stored).items()
    )


def test_a_letter_is_sent_again_as_a_child_of_the_dead_task() -> None:
    """A new id, the same body and group; twice the same, so that a retry can be repeated."""
    topology = Topology(name="t", modules={"count": Module(name="count")})
    first, second = (operations.again(HERE, topology, LETTER) for _ in range(2))

    assert first == second
    assert (first.subject, first.body) == ("sbx.t.local.task.count", b"7")
    assert first.headers[MSG_ID] != "abc"
    assert {PARENT: "abc", ROOT: "top", JOINED: "g", HOP: "3"}.items() <= first.headers.items()
    assert not {REASON, DETAIL, LOG_TAIL, CARRIED} & set(first.headers)


@pytest.mark.parametrize(
    ("sites", "wish", "expected"),
    [
        pytest.param(("local", "b"), "", "task.count", id="it-runs-here-too"),
        pytest.param(("b",), "", "out.b.count", id="it-runs-elsewhere"),
        pytest.param(("local", "b"), "b", "out.b.count", id="it-asks-for-the-other-site"),
    ],
)
def test_a_letter_is_sent_again_to_where_its_module_runs(
    sites: tuple[str, ...], wish: str, expected: str
) -> None:
    """Couriers bury messages for other sites, and a module may be moved to one."""
    headers = {name: value for name, value in LETTER.headers.items() if name != JOINED}
    headers |= {USER: f'{{"to_site": "{wish}"}}'} if wish else {}
    letter = msgspec.structs.replace(LETTER, headers=headers)

    assert operations.again(HERE, two_sites(sites), letter).subject == f"sbx.t.local.{expected}"


@pytest.mark.parametrize(
    ("topology", "why"),
    [
        pytest.param(("b",), "the group is here", id="its-group-is-not-there"),
        pytest.param((), "has no module", id="its-module-is-gone"),
    ],
)
def test_a_letter_that_can_go_nowhere_is_refused(topology: tuple[str, ...], why: str) -> None:
    """Its letter stays, and the reason is told."""
    with pytest.raises(BadMessage, match=why):
        operations.again(HERE, two_sites(topology), LETTER)


def two_sites(sites: tuple[str, ...]) -> Topology:
    """Return a topology whose one module runs at these sites, or that has none."""
    return Topology(
        name="t",
        modules={"count": Module(name="count", sites=sites)} if sites else {},
        sites={name: Site(name=name) for name in ("local", "b")},
    )


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (Selection(), True),
        (Selection(id="abc", module="count", root="top", reason="exhausted"), True),
        (Selection(id="other"), False),
        (Selection(module="total"), False),
        (Selection(root="other"), False),
        (Selection(reason="late"), False),
    ],
)
def test_letters_are_chosen_by_all_that_is_given(chosen: Selection, expected: bool) -> None:
    """Every word narrows."""
    assert chosen.takes_letter(LETTER) is expected


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (Selection(root="m1"), True),
        (Selection(id="m1", module="count"), True),
        (Selection(root="m2"), False),
        (Selection(id="m2"), False),
    ],
)
def test_tasks_are_chosen_by_all_that_is_given(chosen: Selection, expected: bool) -> None:
    """A message without a root is its own root."""
    assert chosen.takes_task(Message(module="count", id="m1", body=b"")) is expected
