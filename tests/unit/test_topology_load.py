"""From bytes to a topology: fields, defaults, warnings, and all errors at once."""

from pathlib import Path

import pytest
from unit.topologies import refusal, topology

from scalebox_actors.errors import BadInput
from scalebox_actors.limits import FAULTS_SHOWN, GROUP_MEMBERS
from scalebox_actors.topology.checks import check
from scalebox_actors.topology.load import load, load_file, load_with_warnings
from scalebox_actors.topology.model import (
    Duration,
    Gather,
    Launch,
    Limits,
    Module,
    Retry,
    Size,
    Topology,
)

WHOLE = """\
topology: whole
label: everything at once
remember: 2h
max_bytes: 1GiB
hops: 9
modules:
  a:
    label: first
    image: sbx/a:1
    command: [run, "{body}"]
    args: ["--id", "{id}"]
    launch: fresh
    sinks: [b]
    slots: 3
    timeout: 1m30s
    limits: {memory: 256MiB, cpus: 1.5, pids: 99}
    retry: {75: 3, "*": 1, delay: 2s, factor: 2, jitter: 0.2, longest: 1m, most: 7}
    env: {A: b}
    mounts: ["data:x:/x:rw"]
    network: cluster
    user: "1000:1000"
    read_only: true
    devices: [/dev/fuse]
    identity: body
    output_text_size: 100
    text_trunc_mode: TAIL
  b:
    function: pkg.mod:total
    gather: {by: root, count: parts, timeout: 1h, min_ok: 2}
"""


def test_every_field_is_read() -> None:
    """The whole vocabulary of a topology in one file."""
    actual = load(WHOLE.encode(), path="t.yaml")

    assert actual.name == "whole"
    assert (actual.label, actual.remember, actual.max_bytes, actual.hops) == (
        "everything at once",
        Duration(7200),
        Size(2**30),
        9,
    )
    a, b = actual.modules.values()
    assert a.retry == Retry(
        rules={"75": 3, "*": 1},
        delay=Duration(2),
        factor=2.0,
        jitter=0.2,
        longest=Duration(60),
        most=7,
    )
    assert a.limits == Limits(memory=Size(2**28), cpus=1.5, pids=99)
    assert (a.command, a.args) == (("run", "{body}"), ("--id", "{id}"))
    assert (a.slots, a.timeout, a.sinks, a.read_only) == (3, Duration(90), ("b",), True)
    assert b.gather == Gather(by="root", count="parts", timeout=Duration(3600), min_ok=2)
    assert (b.launch, b.slots, b.name) == (Launch.FUNCTION, 64, "b")


@pytest.mark.parametrize(
    "text", ["['75:3', '*']", "\"['75:3','*']\"", "{75: 3, '*': 1}", "75:3, *:1", "['75:3', '*:1']"]
)
def test_retry_rules_of_scalebox_mean_the_same(text: str) -> None:
    """`code:n` means n retries, n is 1 if not given, in a list, in a string and in a map."""
    assert topology(f"retry: {text}").modules["a"].retry == Retry(rules={"75": 3, "*": 1})


# --- defaults, errors, warnings ------------------------------------------------------------------


def test_defaults_lie_below_every_module() -> None:
    """Maps merge key by key, anything else is replaced; a function takes nothing of a container."""
    text = """\
topology: t
defaults: {image: "i:1", slots: 5, env: {A: x, B: y}, mounts: ["d:a:/a"], timeout: 1m}
modules:
  a: {env: {B: z}, sinks: [b]}
  b: {function: "m:f", slots: 2}
  c: {image: "j:2", mounts: []}
"""
    expected = {
        "a": Module(
            name="a",
            image="i:1",
            slots=5,
            env={"A": "x", "B": "z"},
            mounts=("d:a:/a",),
            timeout=Duration(60),
            sinks=("b",),
        ),
        "b": Module(
            name="b", function="m:f", launch=Launch.FUNCTION, slots=2, timeout=Duration(60)
        ),
        "c": Module(name="c", image="j:2", slots=5, env={"A": "x", "B": "y"}, timeout=Duration(60)),
    }

    assert load(text.encode(), path="t.yaml").modules == expected


def test_a_fault_in_defaults_is_told_once_at_its_place() -> None:
    """However many modules have it."""
    error = refusal(
        "topology: t\ndefaults: {slots: no}\nmodules: {a: {image: 'i:1'}, b: {image: 'i:1'}}\n"
    )

    assert [str(e).partition(" must")[0] for e in error.errors] == ["t.yaml:2:19: `slots`"]


def test_all_errors_come_in_the_order_of_the_file() -> None:
    """The first is raised and shown; the others are there for who wants to mend all at once."""
    error = refusal("topology: T\nhops: 0\nmodules:\n  B: {image: 'i:1', slots: 0}\n")

    assert [(e.line, e.column) for e in error.errors] == [(1, 11), (2, 7), (4, 3), (4, 28)]
    assert error is error.errors[0]
    assert error.exit_code == 65


def told(text: str) -> list[str]:
    """Return what is wrong with a file: `line:column` and the first words of each error."""
    with pytest.raises(BadInput) as caught:
        load(text.encode(), path="t.yaml")
    return [f"{e.line}:{e.column} {' '.join(e.message.split()[:3])}" for e in caught.value.errors]


def test_what_cannot_be_read_does_not_hide_what_else_is_wrong() -> None:
    """Unknown fields, wrong types, ranges, sinks and sites are told in one go."""
    text = """topology: t
modules:
  a: {imgae: x, sinks: [b, nope], slots: 0}
  b: {image: 'x:1', timeout: soon, sinks: [c, 5, gone]}
  c: {image: 'x:1', sinks: [d], site: moon, limits: {memorx: 1MiB, cpus: -1}}
  e: [image]
"""

    assert told(text) == [
        "3:7 unknown field `imgae`",
        "3:28 sink `nope` is",
        "3:42 `slots` must be",
        "4:30 `timeout` must be",
        "4:47 item 2 of",
        "4:50 sink `gone` is",
        "5:29 sink `d` is",
        "5:33 this topology has",
        "5:54 unknown field `memorx`",
        "5:74 `cpus` must be",
        "6:6 module `e` must",
    ]


SITES = "topology: t\nsites: {m: {hub: true}, n: {}}\n"


@pytest.mark.parametrize(
    "text",
    [
        "name: t\nmodules: {a: {image: 'x:1'}}",
        "topology: t\nmodule: {a: {image: 'x:1'}}",
        "topology: t\nmodules: {a: {image: [x]}}",
        "topology: t\nmodules: {a: {image: 'x:1', gather: {bye: root, count: 2}}}",
        "topology: t\nmodules: {a: {launch: function, functoin: 'a:b'}}",
        "topology: t\nmodules: {a: {image: 'x:1', launch: slto, batch: {size: 2}}}",
        "topology: t\nmodules: {a: {image: 'x:1', lanch: resident, keep: {shortest: 1s}}}",
        "topology: t\nmodules: {a: {image: 'x:1', sinks: [b]}, b: 7}",
        "topology: t\nmodules: {a: {image: 'x:1', sinks: b}, b: {image: 'x:1'}}",
        "topology: t\ndefault: {image: 'x:1'}\nmodules: {a: {slots: 2}}",
        "topology: t\ndefaults: [image]\nmodules: {a: {slots: 2}}",
        "topology: t\nsite: {m: {}}\nmodules: {a: {image: 'x:1', site: m}}",
        "topology: t\nsites: {m: {hub: yes}, n: {}}\nmodules: {a: {image: 'x:1', site: m}}",
        "topology: t\nsites: {m: {hub: true}, n: 7}\nmodules: {a: {image: 'x:1', site: n}}",
        f"{SITES}modules: {{a: {{image: 'x:1', gather: {{by: root, count: 2}}, site: 7}}}}",
        "topology: t\nsites: {m: {replcas: 3, servers: [a, b, c]}}\nmodules: {a: {image: 'x:1'}}",
        "topology: t\nsites: {m: {priorities: {a: 1}}}\nmodules: [a]",
        f"{SITES}modules: {{a: {{image: 'x:1', identity: body, route: body_hash}}}}",
        "topology: t\nmodules: {a: {image: 'x:1', retry: ['75:3', sometimes]}}",
    ],
)
def test_one_slip_is_one_error(text: str) -> None:
    """What follows only from another error is not told beside it."""
    [_] = told(text)


def test_not_more_errors_than_anybody_reads() -> None:
    """The search ends when enough is wrong."""
    fields = "".join(f"    x{number}: 1\n" for number in range(1000))

    error = refusal(f"topology: t\nmodules:\n  a:\n{fields}")

    assert len(error.errors) == FAULTS_SHOWN


def test_warnings_come_in_the_order_of_the_file_with_their_places() -> None:
    """What is doubtful is told as `path:line:column: warning: …` and forbids nothing."""
    text = "topology: t\nmodules:\n  a:\n    image: x\n    user: root\n    sinks: [a]\n"

    _, warnings = load_with_warnings(text.encode(), path="t.yaml")

    assert [warning.split(": ")[0] for warning in warnings] == [
        "t.yaml:2:1",
        "t.yaml:4:12",
        "t.yaml:5:11",
        "t.yaml:6:5",
    ]
    assert all(": warning: " in warning for warning in warnings)


def test_a_secret_is_not_repeated_in_the_warning() -> None:
    """The warning names the variable, never its value."""
    text = "topology: t\nmodules: {a: {image: 'i:1', env: {PASSWORD: hunter2}}}\n"

    _, [warning] = load_with_warnings(text.encode(), path="t.yaml")

    assert "PASSWORD" in warning
    assert "hunter2" not in warning


# --- files ---------------------------------------------------------------------------------------


def test_a_file_is_loaded(tmp_path: Path) -> None:
    """The path is where it is read from and what its errors say."""
    file = tmp_path / "t.yaml"
    file.write_text(WHOLE)

    assert load_file(str(file)).name == "whole"


def test_a_huge_file_is_refused_without_being_read(tmp_path: Path) -> None:
    """A sparse file of 100 GB costs nothing."""
    file = tmp_path / "t.yaml"
    with file.open("wb") as sparse:
        sparse.truncate(100 * 10**9)

    with pytest.raises(BadInput, match="larger than 1048576 bytes"):
        load_file(str(file))


@pytest.mark.parametrize("name", [".", "missing.yaml", "missing/t.yaml", "a\0b", "x" * 300])
def test_a_file_that_cannot_be_read_is_bad_input(tmp_path: Path, name: str) -> None:
    """A folder, nothing at all, a name that cannot be: one sentence."""
    with pytest.raises(BadInput, match="cannot be read"):
        load_file(f"{tmp_path}/{name}")


@pytest.mark.parametrize("example", ["primes", "lambda-phage"])
def test_the_examples_load_without_warnings(example: str) -> None:
    """What we show to newcomers is without fault."""
    path = Path(__file__).parents[2] / "examples" / example / "topology.yaml"

    _, warnings = load_with_warnings(path.read_bytes(), path=str(path))

    assert warnings == []


# --- checks of topologies that come from no file -------------------------------------------------


@pytest.mark.parametrize(
    "module",
    [
        Module(name="a", image="i:1", timeout=Duration("nan")),
        Module(name="a", image="i:1", timeout=Duration("inf")),
        Module(name="a", image="i:1", limits=Limits(cpus=float("nan"))),
        Module(name="a", image="i:1", retry=Retry(rules={}, jitter=float("nan"))),
        Module(name="a", image="i:1", gather=Gather(by="root", count=GROUP_MEMBERS + 1)),
        Module(name="a", image="i:1", sinks=("b",)),
        Module(name="a", image="i:1", function="m:f"),
        Module(name="a"),
    ],
)
def test_checks_hold_for_topologies_made_in_python(module: Module) -> None:
    """The checks need no file; what no file can say (NaN) does not pass either."""
    findings = check(Topology(name="t", modules={"a": module}))

    assert [finding.path[:2] for finding in findings if finding.fatal] == [("modules", "a")]


def test_too_many_modules_made_in_python_are_refused_too() -> None:
    """The limit holds for every topology, not only for files."""
    modules = {f"m{n}": Module(name=f"m{n}", image="i:1") for n in range(257)}

    findings = check(Topology(name="t", modules=modules))

    assert [f.message for f in findings if f.fatal] == ["257 modules; at most 256 are allowed"]


@pytest.mark.parametrize(
    ("variables", "length", "sentence"),
    [
        pytest.param(20, 300, "bytes, more than 1,032,192", id="bytes"),
        pytest.param(250, 1, "more than 50000 values", id="values"),
    ],
)
def test_defaults_that_cannot_be_deployed_are_refused(
    variables: int, length: int, sentence: str
) -> None:
    """What is kept has them in every module; what could not be read again is no topology."""
    env = ", ".join(f"V{number}: {'x' * length}" for number in range(variables))
    modules = "".join(f"  m{number}: {{image: i}}\n" for number in range(200))
    text = f"topology: t\ndefaults:\n  env: {{{env}}}\nmodules:\n{modules}"
    with pytest.raises(BadInput, match=rf"^t:2:1: .*{sentence}"):
        load(text.encode(), path="t")
