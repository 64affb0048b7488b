"""Parameters of a topology: where values come from, and that they stay what they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.topologies import refusal, topology

from scalebox_actors.errors import BadInput
from scalebox_actors.topology.parameters import parameters


def test_a_parameter_is_a_number_where_a_number_is_wanted_and_text_elsewhere() -> None:
    """The field's type decides; nobody has to know what `${N}` will hold."""
    module = topology("slots: ${N}\n    label: ${N}\n    command: [x, '${N}']", N="5").modules["a"]

    assert (module.slots, module.label, module.command) == (5, "5", ("x", "5"))


@pytest.mark.parametrize(
    "value",
    [
        "[a, b]",
        "{a: b}",
        "x\n    slots: 7",
        "*alias",
        "!!python/object:os.system",
        "# x",
        "a: b",
        "'",
        '"',
    ],
)
def test_a_value_cannot_change_the_structure(value: str) -> None:
    """Whatever a parameter holds, it stays the one text it was put into."""
    module = topology("command: ['${V}']\n    env: {A: 'x${V}y'}", V=value).modules["a"]

    assert (module.command, module.env, module.slots) == ((value,), {"A": f"x{value}y"}, 1)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_any_text_arrives_unchanged(value: str) -> None:
    """Values are not filled in again, unescaped or read as YAML."""
    assert topology("command: [x, '${V}']", V=value).modules["a"].command == ("x", value)


@pytest.mark.parametrize(
    ("text", "params", "expected"),
    [
        pytest.param("${A}", {"A": "b"}, "b", id="value"),
        pytest.param("x${A}-${B}", {"A": "1", "B": "2"}, "x1-2", id="two-in-a-text"),
        pytest.param("${A:-d}", {}, "d", id="default"),
        pytest.param("${A:-d}", {"A": "b"}, "b", id="value-before-default"),
        pytest.param("${A:-d}", {"A": ""}, "d", id="empty-counts-as-none"),
        pytest.param("${A:-}", {}, "", id="empty-default"),
        pytest.param("${A}", {"A": ""}, "", id="empty-is-a-value"),
        pytest.param("${A:-x:y/$z}", {}, "x:y/$z", id="default-with-colon-and-dollar"),
        pytest.param("$${A}", {"A": "b"}, "${A}", id="escaped"),
        pytest.param("$$$${A}", {"A": "b"}, "$${A}", id="twice-escaped"),
        pytest.param("$$${A}", {"A": "b"}, "$b", id="escaped-then-value"),
        pytest.param("$A $(id) $", {"A": "b"}, "$A $(id) $", id="no-parameter"),
        pytest.param("${A}", {"A": "${B}", "B": "c"}, "${B}", id="not-filled-in-twice"),
    ],
)
def test_substitution(text: str, params: dict[str, str], expected: str) -> None:
    """The forms of a parameter."""
    assert topology(f"command: [x, '{text}']", **params).modules["a"].command[1] == expected


def test_all_names_without_a_value_are_told_at_once() -> None:
    """One message, with the places of each name."""
    error = refusal("topology: ${T}\nlabel: ${L}-${T}\nmodules: {}\n")

    assert str(error) == (
        "t.yaml:1:11: no value for parameters `T` (1:11, 2:8), `L` (2:8); "
        "give one with --set NAME=VALUE"
    )


def test_parameters_cannot_blow_up_a_file() -> None:
    """A few bytes of YAML cannot ask for a large value a thousand times."""
    error = refusal(f"topology: t\nlabel: '{'${A}' * 1000}'\n", A="x" * 100_000)

    assert "larger than 1048576 bytes" in str(error)


def test_a_value_that_is_no_text_is_refused() -> None:
    """Bytes of the environment that are not UTF-8 are told, not passed on."""
    assert "`A` is not UTF-8 text" in str(refusal("topology: '${A}'\n", A="\udcff"))
    assert "`A` is not UTF-8 text" in str(refusal("topology: '${A}'\n", A="a\0b"))


def test_set_wins_over_env_file_over_environment() -> None:
    """And within one kind the later one wins."""
    files = [("a.env", b"B=file\nC=file\nD=file\n"), ("b.env", b"D=later\n")]

    actual = parameters(["C=set", "E=1", "E=2=3"], files, {"A": "env", "B": "env", "C": "env"})

    assert actual == {"A": "env", "B": "file", "C": "set", "D": "later", "E": "2=3"}


def test_an_env_file_has_comments_quotes_and_export() -> None:
    """The usual forms of such files."""
    data = b"\xef\xbb\xbf# c\r\n\r\nexport A = x \r\nB='a b'\r\nC=\"q\"\r\nD=\r\nE='\r\nF=a#b"

    actual = parameters([], [("a.env", data)], {})

    assert actual == {"A": "x", "B": "a b", "C": "q", "D": "", "E": "'", "F": "a#b"}


@pytest.mark.parametrize(
    ("sets", "data", "expected"),
    [
        pytest.param(["A"], b"", "--set `A` is not NAME=VALUE", id="set-without-value"),
        pytest.param(["1=2"], b"", "--set `1=2` is not NAME=VALUE", id="set-bad-name"),
        pytest.param([], b"A=1\n\nB\n", "a.env:3:1: `B` is not NAME=VALUE", id="no-value"),
        pytest.param([], b"A=1\n\xff\n", "a.env:2:1: not UTF-8 text", id="not-text"),
        pytest.param([], b"A=\0", "a.env:1:1: `A=\\x00` is not NAME=VALUE", id="nul"),
    ],
)
def test_bad_sources_of_parameters(sets: list[str], data: bytes, expected: str) -> None:
    """Each is refused with its place."""
    with pytest.raises(BadInput) as caught:
        parameters(sets, [("a.env", data)], {})

    assert str(caught.value) == expected
