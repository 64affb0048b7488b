"""A topology written as a file means the same, and its pictures are the same every time."""

import textwrap

import pytest
from hypothesis import given, settings
from unit.strategies import TEXT, over_sites, topologies

from scalebox_actors.topology.graph import graph_mermaid, graph_text
from scalebox_actors.topology.load import load
from scalebox_actors.topology.model import Duration, Gather, Launch, Module, Topology
from scalebox_actors.topology.render import render

PRIMES = Topology(
    name="primes",
    label="How many?",
    modules={
        "split": Module(name="split", image="sbx/primes:1", sinks=("count",)),
        "end": Module(name="end", image="sbx/primes:1", slots=2, sinks=("total",)),
        "total": Module(
            name="total",
            function="total:add",
            launch=Launch.FUNCTION,
            slots=64,
            gather=Gather(by="root", count="_parts"),
        ),
    },
)


@pytest.mark.timeout(90)  # a full topology takes its time to draw where others want the machine
@settings(max_examples=40, deadline=None)
@given(topologies() | over_sites())
def test_a_rendered_topology_loads_as_itself(topology: Topology) -> None:
    """Rendering loses nothing: not a dollar, a control character or a fraction of a second."""
    actual = load(render(topology), path="rendered", params={"A": "never put in"})

    assert topology == actual


@settings(max_examples=200, deadline=None)
@given(TEXT)
def test_any_argument_survives(text: str) -> None:
    """Whatever a quoted text of a file can hold comes back from a rendering."""
    module = Module(name="a", image="i:1", command=("x", text), env={"A": text})
    topology = Topology(name="t", modules={"a": module})

    actual = load(render(topology), path="rendered")

    assert topology == actual


@settings(max_examples=15, deadline=None)
@given(topologies() | over_sites())
def test_rendering_is_stable(topology: Topology) -> None:
    """The rendering of what a rendering says is the same bytes."""
    rendered = render(topology)

    assert render(load(rendered, path="rendered")) == rendered


def test_a_rendering_reads_like_a_file_by_hand() -> None:
    """Nothing that is a default is said, and nothing is quoted without need."""
    expected = """\
    topology: primes
    label: "How many?"
    modules:
      split:
        image: "sbx/primes:1"
        sinks: [count]
      end:
        image: "sbx/primes:1"
        sinks: [total]
        slots: 2
      total:
        function: "total:add"
        gather: {by: root, count: "_parts"}
    """

    actual = render(PRIMES).decode()

    assert textwrap.dedent(expected) == actual


def test_the_text_graph_shows_entries_programs_gathers_and_results() -> None:
    """One line per module in the order of the file."""
    expected = """\
    primes: How many?
    → split  sbx/primes:1     1 slot  → count
    → end    sbx/primes:1    2 slots  → total
      total  total:add()    64 slots  → results
             gathers _parts by root
    """

    actual = graph_text(PRIMES)

    assert textwrap.dedent(expected) == actual


def test_the_text_graph_says_when_a_group_is_let_go() -> None:
    """A time limit and a least number are part of the picture."""
    gather = Gather(by="root", count=9, timeout=Duration(90), min_ok=8)
    module = Module(name="a", image="i:1", gather=gather)
    expected = """\
    t
    → a  i:1     1 slot  → results
         gathers 9 by root, 1m30s at most, then 8 are enough
    """

    actual = graph_text(Topology(name="t", modules={"a": module}))

    assert textwrap.dedent(expected) == actual


def test_the_mermaid_graph_has_ids_of_its_own() -> None:
    """A module called `end` would be a word of Mermaid; ids are numbers."""
    modules = dict(PRIMES.modules)
    modules["split"] = Module(name="split", image="sbx/primes:1", sinks=("end",))
    expected = """\
    flowchart LR
        m0(["split<br/>sbx/primes:1"])
        m1["end<br/>sbx/primes:1"]
        m2{{"total<br/>total:add()<br/>gathers _parts by root"}}
        results[(results)]
        m0 --> m1
        m1 --> m2
        m2 --> results
    """

    actual = graph_mermaid(Topology(name="primes", modules=modules))

    assert textwrap.dedent(expected) == actual


@pytest.mark.parametrize("draw", [graph_text, graph_mermaid])
def test_a_pattern_cannot_break_a_picture(draw: object) -> None:
    """Quotes, line breaks and escapes of a pattern stay on their line."""
    gather = Gather(by='(a"]\n\x1b[31m|<b>)', count=3, timeout=None)
    module = Module(name="a", image="i:1", gather=gather)
    assert callable(draw)

    picture = draw(Topology(name="t", modules={"a": module}))

    assert "\x1b" not in picture
    assert '"]\n' not in picture.replace('b>)"]\n', "")
    assert "<b>" not in picture or draw is graph_text
    assert all(line.isprintable() for line in picture.splitlines())
