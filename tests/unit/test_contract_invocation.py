"""The module contract, rule by rule: what a program is given, as arguments and in batch files."""

import base64

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.writings import Header, Text

from scalebox_actors.contract import (
    Emission,
    arguments,
    parse_sink_tasks,
    render_batch_jsonl,
    render_batch_txt,
)
from scalebox_actors.errors import BadMessage
from scalebox_actors.limits import ARGUMENT_BYTES, MIB


def argv(args: list[str] | None, body: bytes = b"a,b") -> list[str]:
    """Return the arguments of a task with one header."""
    return arguments(args, body=body, headers={"k": "v w"}, task_id="id7", work="/work")


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (None, ["a,b", '{"k":"v w"}']),
        ([], []),
        (["--in={body}", "{work}/x", "{id}"], ["--in=a,b", "/work/x", "id7"]),
        (["{headers}{headers}"], ['{"k":"v w"}{"k":"v w"}']),
        (
            ["{other}", "{}", "{ body }", "{{id}}", "%s $(id) {"],
            ["{other}", "{}", "{ body }", "{id7}", "%s $(id) {"],
        ),
    ],
)
def test_arguments(args: list[str] | None, expected: list[str]) -> None:
    """Placeholders are filled inside their argument, braces of other names are left alone."""
    assert argv(args) == expected


def test_a_body_is_never_a_template() -> None:
    """Placeholders inside a body stay what they are, and so does whatever else it holds."""
    body = "{headers} {id} $(id) `x` ; 'é\n"

    assert argv(["{body}"], body.encode()) == [body]


@pytest.mark.parametrize(
    ("args", "body", "says"),
    [
        (None, b"x" * (ARGUMENT_BYTES + 1), "131072 bytes"),
        (None, "é".encode() * 65_536, "131072 bytes"),
        (["-{body}"], b"x" * ARGUMENT_BYTES, "131072 bytes"),
        (["{body}{body}"], b"x" * 65_536, "131072 bytes"),
        (None, b"\xff", "not UTF-8"),
        (["{id}", "x{body}"], b"a\0b", "NUL"),
    ],
)
def test_a_body_that_is_no_argument_is_refused(
    args: list[str] | None, body: bytes, says: str
) -> None:
    """A body that no program can be given as an argument says so, and what to do instead."""
    with pytest.raises(BadMessage, match=says) as caught:
        argv(args, body)

    assert "use args: without {body} and read $WORK_DIR/body" in str(caught.value)


def test_a_body_that_is_not_used_may_be_anything() -> None:
    """The longest argument passes, and an unused body is not looked at."""
    assert argv(["{body}"], b"x" * ARGUMENT_BYTES) == ["x" * ARGUMENT_BYTES]
    assert argv(["{id}"], b"\0\xff" * MIB) == ["id7"]


@given(
    st.lists(st.tuples(st.text("abc7,", min_size=1), st.binary() | Text.map(str.encode), Header))
)
def test_batch_jsonl_holds_every_body_exactly(
    tasks: list[tuple[str, bytes, dict[str, str]]],
) -> None:
    """Each line of the JSON batch gives back id, body and headers of one task."""
    lines = [msgspec.json.decode(line) for line in render_batch_jsonl(tasks).splitlines()]

    bodies = [
        line["body"].encode() if "body" in line else base64.b64decode(line["body_base64"])
        for line in lines
    ]
    actual = [(t["task_id"], b, t["headers"]) for t, b in zip(lines, bodies, strict=True)]
    assert actual == tasks


@given(Text.filter(lambda t: not t.startswith("{") and not t.endswith("\\")), Header)
def test_batch_txt_reads_like_a_task_file(body: str, headers: dict[str, str]) -> None:
    """A line of the text batch is form 6 of the task files with the id in the module's place."""
    data = render_batch_txt([("id7", body.encode(), headers)])

    (emission,) = parse_sink_tasks(data, {"id7"}, "batch-tasks.txt")
    assert emission == Emission(module="id7", body=body.encode(), headers=headers)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"a,b", b'id,a\\,b,{"k":"v"}\n'),
        (b'{"a":1,"b":2}', b'id,{"a":1,"b":2},{"k":"v"}\n'),
        (b'{"a": 1,\n "b": "x y"}', b'id,{"a":1,"b":"x y"},{"k":"v"}\n'),
        (b"a\r\nb", b'id,a\\r\\nb,{"k":"v"}\n'),
        (b"\xff", b'id,\xef\xbf\xbd,{"k":"v"}\n'),
        (b"", b'id,,{"k":"v"}\n'),
        (
            b'{"a":' * 2000 + b"1,2" + b"}" * 2000,
            b"id," + b'{"a":' * 2000 + b"1\\,2" + b"}" * 2000 + b',{"k":"v"}\n',
        ),
    ],
)
def test_batch_txt_is_one_line_a_task(body: bytes, expected: bytes) -> None:
    """Commas of text are escaped, JSON stays, and what no line can hold is made to fit."""
    assert render_batch_txt([("id", body, {"k": "v"})]) == expected
