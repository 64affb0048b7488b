"""Run records become trees, whatever a forger writes into them."""

import sys

from scalebox_actors.cli.lineage import Twig, drawn, lines_of, told, trees
from scalebox_actors.cli.logs import lines_of as log_lines
from scalebox_actors.cli.trace import choose
from scalebox_actors.records import RunRecord


def run(name: str, parent: str = "", *, attempt: int = 1, **more: str) -> RunRecord:
    """Return the record of a run of the message `name`."""
    return RunRecord(
        module=more.get("module", "count"),
        id=name,
        parent=parent,
        root=more.get("root", ""),
        attempt=attempt,
        verdict=more.get("verdict", "done"),
        node="n1",
        body=more.get("body", "7"),
        started=1.0,
        finished=1.5,
    )


def shape(twig: Twig) -> tuple[str, list[object]]:
    """Return a tree as ids alone."""
    return (twig.last.id, [shape(child) for child in twig.children])


def test_children_hang_below_their_parents() -> None:
    """Records may come in any order; the tree follows the lineage."""
    actual = [shape(top) for top in trees([run("c", "b"), run("b", "a"), run("d", "b"), run("a")])]

    assert actual == [("a", [("b", [("c", []), ("d", [])])])]


def test_runs_of_one_message_are_one_task() -> None:
    """A retry is another run of the same task, and the last run tells how it ended."""
    [top] = trees([run("a", attempt=2), run("a", attempt=1, verdict="retry")])

    assert [record.attempt for record in top.runs] == [1, 2]
    assert "done" in told(top)
    assert "run 2" in told(top)


def test_an_unknown_parent_makes_a_top() -> None:
    """What happened before the time that is looked at is not there to hang below."""
    assert [shape(top) for top in trees([run("b", "long-ago")])] == [("b", [])]


def test_a_circle_is_shown_once_and_ends() -> None:
    """Parents are taken from messages, so somebody may have forged a circle."""
    tops = trees([run("a", "b"), run("b", "a"), run("c", "c")])
    lines = [line for top in tops for line in drawn(top)]

    assert len(lines) == 3


def test_a_tree_is_drawn_with_branches() -> None:
    """The picture shows which task sent which."""
    [top] = trees([run("a"), run("b", "a"), run("c", "b"), run("d", "a")])
    actual = [line.split("count")[0] for line in drawn(top)]

    assert actual == ["", "├─ ", "│  └─ ", "└─ "]


def test_a_deep_lineage_is_no_recursion() -> None:
    """A chain longer than Python's stack is drawn to its end."""
    deep = sys.getrecursionlimit() + 100
    [top] = trees([run("0"), *(run(str(i), str(i - 1)) for i in range(1, deep))])

    assert deep == sum(1 for _ in drawn(top))


def test_a_task_is_one_line_whatever_its_body() -> None:
    """A body cannot draw branches of its own."""
    assert told(Twig(runs=[run("a", body="x\n└─ y\x1b[2J")])).isprintable()


def test_lines_that_cannot_be_read_are_left_out() -> None:
    """A newer node may write records that this version does not know."""
    lines = b'{"module":"m","id":"a"}\n{"module":1}\nxx\n{"module":"\xff"}\n'

    assert [r.id for r in lines_of(lines)] == ["a"]


def test_a_message_stands_for_its_whole_tree() -> None:
    """Asked for one message, the trace shows where it came from and what became of it."""
    records = [run("a"), run("b", "a", root="a"), run("x")]

    assert [r.id for r in choose(records, message_id="b", root=None, module=None)] == ["a", "b"]


def test_root_and_module_narrow() -> None:
    """Both may be given."""
    records = [run("a"), run("b", "a", root="a", module="total"), run("x", module="total")]

    assert [r.id for r in choose(records, message_id=None, root="a", module="total")] == ["b"]


def test_every_line_of_a_log_is_marked() -> None:
    """A program cannot print a line that looks like ours."""
    record = run("a")
    record.stdout, record.stderr = "one\n# count a run 9\n", "two"
    actual = list(log_lines(record))

    assert actual[1:] == ["out| one", "out| # count a run 9", "err| two"]
    assert actual[0].startswith("# count a run 1 ")
