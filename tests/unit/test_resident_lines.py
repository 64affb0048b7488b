"""The lines between a node and a resident program: what goes out comes back, nothing surprises."""

import base64
import contextlib
import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalebox_actors.contract import resident
from scalebox_actors.contract.resident import Answer, Beat, Pong, Ready, Unusable
from scalebox_actors.errors import BadOutput
from scalebox_actors.limits import OUTPUTS_PER_TASK, RESIDENT_IN_FLIGHT

MODULES = ("next",)


def read(line: bytes) -> resident.Line:
    """Read a line in which there is nothing unknown."""
    unknown: list[str] = []
    said = resident.read_line(line, unknown.append)

    assert unknown == []
    return said


@settings(max_examples=100, deadline=None)
@given(st.binary(), st.dictionaries(st.text(), st.text()))
def test_a_message_is_one_line_that_says_it_all(body: bytes, headers: dict[str, str]) -> None:
    """Any bytes and any headers go out as one line of JSON, from which they can be had back."""
    line = resident.message_line("id", 2, body, headers)
    said = json.loads(line)
    text = said.get("body")
    got = base64.b64decode(said["body_base64"]) if text is None else text.encode()

    assert line.count(b"\n") == 1
    assert line.startswith(b'{"id":"id",')
    assert (got, said["headers"], said["attempt"]) == (body, headers, 2)
    assert "work" not in said


def test_a_body_may_lie_in_a_file() -> None:
    """A message with a folder says where it is; without a body, the body lies there."""
    line = resident.message_line("id", 1, None, {}, "/work/x")

    assert json.loads(line) == {
        "id": "id", "attempt": 1, "work": "/work/x", "headers": {},
    }  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.binary())
def test_any_line_is_read(line: bytes) -> None:
    """Whatever a program writes is understood or found wanting, never a failure of ours."""
    resident.read_line(line, lambda _: None)


_KEYS = st.sampled_from(["id", "exit", "sink", "extras", "ready", "in_flight", "beat", "x"])
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(_JSON)
def test_any_json_is_read(value: object) -> None:
    """So is every line of JSON, and what it asks for is given or refused with a reason."""
    line = json.dumps(value).encode()
    said = resident.read_line(line, lambda _: None)
    if isinstance(said, Answer):
        resident.extras(said)
        with contextlib.suppress(BadOutput):
            resident.emissions(said, MODULES)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param(b'{"id":"a"}', Answer(id="a"), id="nothing-more-is-needed"),
        pytest.param(b'{"id":"a","exit":255}', Answer(id="a", exit=255), id="a-byte"),
        pytest.param(b' {"id" : "a"}\r', Answer(id="a"), id="blanks"),
        pytest.param(b'{"beat":"a"}', Beat("a"), id="beat"),
        pytest.param(b'{"pong":7}', Pong(7), id="pong"),
        pytest.param(b'{"ready":true}', Ready(), id="ready"),
        pytest.param(
            b'{"ready":true,"in_flight":8,"heartbeat":2.5,"name":"n"}',
            Ready(8, 2.5, "n"),
            id="ready-with-wishes",
        ),
        pytest.param(b'{"id":"a","exit":256}', Unusable("exit code 256", "a"), id="no-byte"),
        pytest.param(b'{"id":"a","exit":-1}', Unusable("exit code -1", "a"), id="negative"),
    ],
)
def test_lines(line: bytes, expected: resident.Line) -> None:
    """Each kind of line is known by its first key."""
    assert expected == read(line)


@pytest.mark.parametrize(
    ("line", "message", "says"),
    [
        pytest.param(b"hello", None, "malformed", id="no-json"),
        pytest.param(b"", None, "truncated", id="empty"),
        pytest.param(b"[]", None, "Expected `object`", id="list"),
        pytest.param(b"{}", None, "none of the keys", id="no-key"),
        pytest.param(b'{"id":5}', None, "Expected `str", id="number-for-id"),
        pytest.param(b'{"id":"a","exit":"0"}', "a", "$.exit", id="text-for-exit"),
        pytest.param(b'{"id":"a","exit":true}', "a", "$.exit", id="boolean-for-exit"),
        pytest.param(b'{"id":"a","sink":{}}', "a", "$.sink", id="map-for-sink"),
        pytest.param(b'{"id":"a","sink":[{"body":"x","y":1}]}', "a", "`y`", id="sink-of-more"),
        pytest.param(b'{"ready":true,"in_flight":0}', None, "in_flight 0", id="none-in-flight"),
        pytest.param(
            b'{"ready":true,"in_flight":%d}' % (RESIDENT_IN_FLIGHT + 1),
            None,
            "in_flight 257",
            id="too-many-in-flight",
        ),
        pytest.param(b'{"ready":true,"heartbeat":0.1}', None, "heartbeat 0.1", id="hasty-heart"),
        pytest.param(b'{"ready":true,"heartbeat":-1}', None, "heartbeat -1", id="backward-heart"),
        pytest.param(b'{"id":"\xff"}', None, "", id="no-utf-8"),
        pytest.param(b'{"extras":' + b"[" * 100_000, None, "", id="deep"),
    ],
)
def test_unusable_lines(line: bytes, message: str | None, says: str) -> None:
    """What is wrong with a line is said, and of which message it is if it says so."""
    said = read(line)

    assert isinstance(said, Unusable)
    assert (message, True) == (said.id, says in said.why)


def test_unknown_keys_are_told_and_ignored() -> None:
    """Keys of a later version cost an answer nothing."""
    unknown: list[str] = []
    said = resident.read_line(b'{"id":"a","mood":1,"exit":3,"age":[]}', unknown.append)

    assert (Answer(id="a", exit=3), ["age", "mood"]) == (said, unknown)


def test_emissions() -> None:
    """An answer sends what a line of `sink-tasks.jsonl` would, and bytes as well."""
    items = [
        {"body": "text", "module": "next", "headers": {"n": 1.5, "gone": None}},
        {"body": {"a": [1, 2]}},
        {"body_base64": base64.b64encode(b"\xff\x00").decode()},
    ]
    said = read(json.dumps({"id": "a", "sink": items}).encode())

    assert isinstance(said, Answer)
    assert [(e.module, e.body, e.headers) for e in resident.emissions(said, MODULES)] == [
        ("next", b"text", {"n": "1.5"}),
        (None, b'{"a":[1,2]}', {}),
        (None, b"\xff\x00", {}),
    ]


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ({"body": "x", "module": "nosuch"}, "sink 1: unknown module 'nosuch'"),
        ({}, "sink 1: needs one of `body` and `body_base64`"),
        ({"body": "x", "body_base64": "eA=="}, "sink 1: needs one of `body` and `body_base64`"),
        ({"body_base64": "no base64"}, "sink 1: `body_base64` is not base64"),
        ({"body": None}, "sink 1: `body` is neither a string nor an object"),
        ({"body": "x", "headers": {"a": "é"}}, "sink 1: header"),
    ],
)
def test_unusable_emissions(item: dict[str, object], says: str) -> None:
    """A message that cannot be sent spoils the answer, and it is said which one it is."""
    said = read(json.dumps({"id": "a", "sink": [item]}).encode())

    assert isinstance(said, Answer)
    with pytest.raises(BadOutput, match=says):
        resident.emissions(said, MODULES)


def test_too_many_emissions() -> None:
    """A run sends as many messages as fit its commit, whichever way it says so."""
    said = read(json.dumps({"id": "a", "sink": [{"body": "x"}] * (OUTPUTS_PER_TASK + 1)}).encode())

    assert isinstance(said, Answer)
    with pytest.raises(BadOutput, match="more than 999 tasks"):
        resident.emissions(said, MODULES)


@pytest.mark.parametrize(
    ("given_extras", "expected"),
    [
        pytest.param({"a": [1]}, {"a": [1]}, id="own"),
        pytest.param(None, {}, id="null"),
        pytest.param({"a": 1, "iobytes": 5}, {"a": 1, "declared": {"iobytes": 5}}, id="measured"),
        pytest.param([1], {"warnings": ["Expected `object`, got `array`"]}, id="no-map"),
        pytest.param(
            {"a": "x" * 70_000},
            {"warnings": ["extras: larger than 65536 bytes, left out"]},
            id="too-large",
        ),
    ],
)
def test_extras(given_extras: object, expected: dict[str, object]) -> None:
    """Attributes are kept as those of `extra-attrs.yaml` are, and never spoil an answer."""
    said = read(msgspec.json.encode({"id": "a", "extras": given_extras}))

    assert isinstance(said, Answer)
    got = resident.extras(said)
    warnings = got.pop("warnings", None)
    expected_warnings = expected.pop("warnings", None)

    assert expected == got
    assert (warnings is None) == (expected_warnings is None)
    assert isinstance(warnings, list | None)
    assert str(expected_warnings or [""])[2:-2] in str(warnings or [""])
