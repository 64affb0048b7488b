"""The module contract, rule by rule: what the files mean that a program leaves."""

import datetime as dt
import time
from collections.abc import Mapping
from typing import Literal

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from unit.writings import Header, Text

from scalebox_actors.contract import (
    READ_FILES,
    Cut,
    Emission,
    header_values,
    parse_outputs,
    parse_sink_jsonl,
    parse_sink_tasks,
    truncate,
)
from scalebox_actors.contract.objects import headers_comma
from scalebox_actors.errors import BadOutput
from scalebox_actors.limits import MIB, OUTPUT_FILE_BYTES

MODULES = {"calc", "next", "calc@b"}


def one(line: str) -> tuple[str | None, str, dict[str, str]]:
    """Read a file of one line: its module, body and headers."""
    (emission,) = parse_sink_tasks(line.encode(), MODULES, "sink-tasks.txt")
    return emission.module, emission.body.decode(), emission.headers


@pytest.mark.parametrize(
    ("line", "module", "body", "headers"),
    [
        # The seven forms, as the contract's table has them.
        ("obs7/ch109.dat", None, "obs7/ch109.dat", {}),
        ('{"file":"ch109.dat","n":3}', None, '{"file":"ch109.dat","n":3}', {}),
        ('obs7/ch109.dat,{"zone":"a"}', None, "obs7/ch109.dat", {"zone": "a"}),
        ('{"file":"ch109.dat"},{"zone":"a"}', None, '{"file":"ch109.dat"}', {"zone": "a"}),
        ("calc,obs7/ch109.dat", "calc", "obs7/ch109.dat", {}),
        ('calc,obs7/ch109.dat,{"zone":"a"}', "calc", "obs7/ch109.dat", {"zone": "a"}),
        ('calc,{"file":"ch109.dat"},{"zone":"a"}', "calc", '{"file":"ch109.dat"}', {"zone": "a"}),
        # Rule 1: a line that starts with an object has it, verbatim, as its body.
        ('{ "b" : 1 , "a" : [ ] }', None, '{ "b" : 1 , "a" : [ ] }', {}),
        ("{}", None, "{}", {}),
        ("{},{}", None, "{}", {}),
        ('{"a":"}{,\\"}"},{"k":"},{"}', None, '{"a":"}{,\\"}"}', {"k": "},{"}),
        ('{"a":"x\\,y"}', None, '{"a":"x,y"}', {}),  # `\,` is no JSON: a text, by rules 4 and 5
        ("{abc", None, "{abc", {}),
        ("{abc},x", None, "{abc},x", {}),
        ("{a},{}", None, "{a}", {}),
        (' {"a":1}', None, ' {"a":1}', {}),
        # Rule 2: exactly two objects behind the first comma; the first part names a module.
        ('calc,{"a":1},{}', "calc", '{"a":1}', {}),
        ("next,{},{}", "next", "{}", {}),
        ('calc@b,{"a":1},{}', "calc@b", '{"a":1}', {}),
        ('calc,{"a":",{"},{"k":",{}"}', "calc", '{"a":",{"}', {"k": ",{}"}),
        # Rule 3: the leftmost comma behind which one object fills the rest of the line.
        ('name,{"a":1}', None, "name", {"a": "1"}),
        ('calc,{"a":1}', None, "calc", {"a": "1"}),  # form 3 also when the name is a module's
        ('a,b,{"a":1},{"b":2}', None, 'a,b,{"a":1}', {"b": "2"}),
        ('a,{"x":",{\\"y\\":1}"}', None, "a", {"x": ',{"y":1}'}),
        ('a","b,{"k":"v"}', None, 'a","b', {"k": "v"}),
        ('a,{"b,{"k":"v"}', None, 'a,{"b', {"k": "v"}),
        ('a,{"k":[{},{}],{"d":"4"}', None, 'a,{"k":[{},{}]', {"d": "4"}),
        ('a,{x},{"k":"v"}', None, "a,{x}", {"k": "v"}),
        ('[{"a":1},{"b":2}],{"k":"v"}', None, '[{"a":1},{"b":2}]', {"k": "v"}),
        ('[{"a":1},{"b":2}]', None, '[{"a":1},{"b":2}]', {}),
        (',{"k":"v"}', None, "", {"k": "v"}),
        ('a\\,{"k":"v"}', None, 'a,{"k":"v"}', {}),
        ('a, {"k":"v"}', None, 'a, {"k":"v"}', {}),
        ('a,{"k":"v"} ', None, 'a,{"k":"v"} ', {}),
        ('a,{"k":"v"}}', None, 'a,{"k":"v"}}', {}),
        ('a,{"k":v}', None, 'a,{"k":v}', {}),
        ('a,{"k":[1}', None, 'a,{"k":[1}', {}),
        ('a,{"k":\\"v"}', None, 'a,{"k":\\"v"}', {}),
        # Rule 4: the text before the first comma is the target if a module has that name.
        ("calc,a,b,c", "calc", "a,b,c", {}),
        ("nosuch,a,b", None, "nosuch,a,b", {}),
        ("calc@b,x", "calc@b", "x", {}),
        ("next@b,x", None, "next@b,x", {}),
        ("calc", None, "calc", {}),
        ("calc,", "calc", "", {}),
        ('calc,,{"k":"v"}', "calc", "", {"k": "v"}),
        ('calc,a,b,{"k":"v"}', "calc", "a,b", {"k": "v"}),
        ('calc,a,{"x":1},{"k":"v"}', "calc", 'a,{"x":1}', {"k": "v"}),
        ("a,calc,b", None, "a,calc,b", {}),
        ("Calc,x", None, "Calc,x", {}),
        # Rule 5: `\,` is a comma; there is no other escape.
        ("calc\\,x", None, "calc,x", {}),
        ("calc\\,x,y", None, "calc,x,y", {}),
        ("calc,a\\,b", "calc", "a,b", {}),
        ("a\\\\,b", None, "a\\,b", {}),
        ("a\\nb\\", None, "a\\nb\\", {}),
    ],
)
def test_sink_tasks_line(
    line: str, module: str | None, body: str, headers: Mapping[str, str]
) -> None:
    """A line is resolved by the first rule that matches, and in no other way."""
    assert one(line) == (module, body, headers)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"a":1}x', "after the JSON body"),
        ('{"a":1} ', "after the JSON body"),
        ('{"a":1}{"b":2}', "after the JSON body"),
        ('{"a":1},', "what follows the JSON body"),
        ('{"a":1},x', "what follows the JSON body"),
        ('{"a":1},{"b":2}x', "what follows the JSON body"),
        ('{"a":1},{"b":1},{"c":1}', "what follows the JSON body"),
        ('{"a":1}, {"b":2}', "what follows the JSON body"),
        ('nosuch,{"a":1},{"b":2}', "unknown module 'nosuch'"),
        (',{"a":1},{"b":2}', "unknown module ''"),
        ('calc@c,{"a":1},{}', "unknown module 'calc@c'"),
        ('a,{"k":"' + "v" * 257 + '"}', "header 'k'"),
    ],
)
def test_malformed_sink_tasks_line(line: str, says: str) -> None:
    """A malformed line spoils the whole file, and the error names its place."""
    data = f"fine\r\n\n{line}\nfine\n".encode()

    with pytest.raises(BadOutput) as caught:
        parse_sink_tasks(data, MODULES, "sink-tasks.txt")

    assert str(caught.value).startswith(f"sink-tasks.txt:3: {says}")


Tricky = st.text('{},"\\[]:a1 ', max_size=30) | st.text('{},"\\a', max_size=12)


@given(st.none() | st.sampled_from(sorted(MODULES)), Text | Tricky, Header)
@example(None, "calc,x", {})
@example("calc", '{"a":1}', {})
def test_sink_tasks_round_trip(module: str | None, body: str, headers: dict[str, str]) -> None:
    """What a careful writer writes, with escaped commas and headers, is what is read."""
    target = f"{module}," if module else ""
    if body.strip(" \t") and not body.startswith("{") and not body.endswith("\\"):
        line = f"{target}{body.replace(',', chr(92) + ',')},{msgspec.json.encode(headers).decode()}"
        assert one(line) == (module, body, headers)

    written = {"module": module, "body": body, "headers": headers}
    (emission,) = parse_sink_jsonl(msgspec.json.encode(written), MODULES, "s")
    assert emission == Emission(module=module, body=body.encode(), headers=headers)


def brute_force(line: str) -> int:
    """Find the comma before the headers as the contract words it: by trying each."""
    for at, sign in enumerate(line):
        if sign == "," and line[max(0, at - 1) : at] != "\\" and line[-1] == "}":
            try:
                msgspec.json.decode(line[at + 1 :], type=dict[str, msgspec.Raw])
            except msgspec.MsgspecError:
                continue
            if line[at + 1] == "{":
                return at
    return -1


@given(st.lists(st.sampled_from([*'{}[],":\\a ', ",{", ',{"a":', '{"a":1}', '"a"', "{}"])))
@example([',{"a":', '"', ",{", '"', ":", "{}", "}"])
def test_the_comma_before_headers_is_found_as_by_trying_each(parts: list[str]) -> None:
    """The linear search finds what trying a JSON parser behind every comma finds."""
    line = "".join(parts)

    assert headers_comma(line, "s:1") == brute_force(line)


def refusal(name: str, data: bytes) -> str | None:
    """Return why a run with this one file is unusable, or None if it is usable."""
    try:
        outputs = parse_outputs({name: data}, MODULES)
    except BadOutput as error:
        return str(error)
    msgspec.json.encode(outputs)
    return None


@given(st.binary(max_size=200) | st.text('{},"\\[]:a\n\r', max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """Whatever a program writes is read or refused with its place, and nothing else is raised."""
    for name in READ_FILES:
        why = refusal(name, data)
        assert why is None or (why.startswith(f"{name}:") and why.isprintable())


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\n" * (4 * MIB), id="blank-lines"),
        pytest.param(b"a\n" * 1_000_000, id="a-million-lines"),
        pytest.param(b',{"a":[1' * (MIB // 2) + b"}", id="open-objects"),
        pytest.param(b"x" + b",{}" * (MIB // 3), id="a-comma-and-an-object-each"),
        pytest.param(b',{"' * MIB + b"}", id="objects-and-quotes"),
        pytest.param(b'x,{"k":[' + b"{}," * (MIB // 3) + b"1]}", id="long-header"),
        pytest.param(b',{"a":"\\' * (MIB // 2) + b'"}', id="backslashes"),
        pytest.param(b" " * (4 * MIB), id="one-line-of-blanks"),
    ],
)
def test_hostile_task_files_take_linear_time(data: bytes) -> None:
    """No file that fits the limit keeps a node busy for long."""
    begin = time.perf_counter()

    why = refusal("sink-tasks.txt", data)

    assert why is None or why.startswith("sink-tasks.txt:")
    assert time.perf_counter() - begin < 15  # quadratic would be minutes


@pytest.mark.parametrize("name", READ_FILES)
def test_a_file_over_the_limit_is_refused(name: str) -> None:
    """No file of more than 4 MiB is read, except for the free text, which is cut by its reader."""
    files = {name: b"\n" * (OUTPUT_FILE_BYTES + 1)}
    if name in {"auxout.txt", "custom-out.txt", "user-file.txt"}:
        assert parse_outputs(files, MODULES).auxout == files[name]
    else:
        with pytest.raises(BadOutput, match=f"{name}:1: "):
            parse_outputs(files, MODULES)


@pytest.mark.parametrize(
    ("zone", "expected"),
    [
        pytest.param(None, "2024-07-01T12:00:00", id="stored-unchanged"),
        pytest.param(dt.UTC, "2024-07-01T12:00:00+00:00", id="utc"),
        pytest.param(
            dt.timezone(dt.timedelta(hours=-3, minutes=-30)), "2024-07-01T12:00:00-03:30", id="node"
        ),
    ],
)
def test_times_without_zone_are_of_the_given_zone(zone: dt.tzinfo | None, expected: str) -> None:
    """A time is completed with the zone that the caller names, and never changed otherwise."""
    files = {"timestamps.txt": b"2024-07-01 12:00:00,start\n2024-07-01T12:00:00Z\n"}

    extras = parse_outputs(files, MODULES, zone=zone).extras

    assert extras == {"timestamps": [[expected, "start"], ["2024-07-01T12:00:00+00:00", ""]]}


def test_header_values_become_strings() -> None:
    """Strings stay, numbers and booleans become JSON text, null goes, the rest is compact JSON."""
    raw = {"s": "x y", "i": 7, "f": 1.5, "t": True, "n": None, "l": [1, "a b"], "o": {"k": None}}

    expected = {"s": "x y", "i": "7", "f": "1.5", "t": "true", "l": '[1,"a b"]', "o": '{"k":null}'}
    assert header_values(raw) == expected
    assert header_values({"r": msgspec.Raw(b"1.50"), "z": msgspec.Raw(b"null")}) == {"r": "1.50"}


@pytest.mark.parametrize(
    ("text", "limit", "mode", "expected"),
    [
        (b"", 5, "HEAD", Cut()),
        (b"abc", 3, "HEAD", Cut(text="abc", size=3)),
        (b"abcd", 3, "HEAD", Cut(text="bcd", size=4, cut=True)),
        (b"abcd", 3, "TAIL", Cut(text="abc", size=4, cut=True)),
        (b"abcd", 0, "HEAD", Cut(size=4, cut=True)),
        (b"abcd", 0, "TAIL", Cut(size=4, cut=True)),
        ("aéb".encode(), 2, "HEAD", Cut(text="b", size=4, cut=True)),
        ("aéb".encode(), 2, "TAIL", Cut(text="a", size=4, cut=True)),
        ("😀😀".encode(), 7, "HEAD", Cut(text="😀", size=8, cut=True)),
        ("😀😀".encode(), 7, "TAIL", Cut(text="😀", size=8, cut=True)),
        (b"a\xffb", 9, "HEAD", Cut(text="a\ufffdb", size=3)),
        (b"\xff\xff\xff", 3, "TAIL", Cut(text="\ufffd", size=3, cut=True)),
        (b"ab\xe2\x82", 9, "TAIL", Cut(text="ab\ufffd", size=4)),
    ],
)
def test_truncate(text: bytes, limit: int, mode: Literal["HEAD", "TAIL"], expected: Cut) -> None:
    """HEAD keeps the end and TAIL the beginning, whole characters only."""
    assert truncate(text, limit, mode) == expected


@given(st.text(max_size=20).map(str.encode) | st.binary(max_size=20), st.integers(0, 25))
def test_truncated_text_fits_and_is_the_end_asked_for(text: bytes, limit: int) -> None:
    """What is kept never exceeds the limit and is one end of the whole."""
    whole = text.decode(errors="replace")
    head, tail = truncate(text, limit, "HEAD"), truncate(text, limit, "TAIL")

    assert max(len(head.text.encode()), len(tail.text.encode())) <= limit
    assert head.size == tail.size == len(text)
    if "\ufffd" not in whole:
        assert whole.endswith(head.text)
        assert whole.startswith(tail.text)
        assert head.cut == tail.cut == (len(text) > limit)
