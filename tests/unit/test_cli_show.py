"""How things look: one record is one line, and no stranger's text is obeyed by a terminal."""

import json
import logging

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalebox_actors.cli import logbook, show

NASTY = "\x1b[2Ja\rb\nc\u202ed\x9be\u2028f\x00\ud800"


def test_escaped_text_is_one_printable_line() -> None:
    """Escape sequences, line breaks and turns of direction become visible characters."""
    actual = show.escaped(NASTY)

    assert actual == r"\x1b[2Ja\rb\nc\u202ed\x9be\u2028f\x00\ud800"


@given(st.text())
def test_escaping_leaves_no_control_character(text: str) -> None:
    """Whatever the text, what is shown is printable but for tabs."""
    assert show.escaped(text).replace("\t", "").isprintable()


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_json_lines_are_printable_and_mean_the_same(text: str) -> None:
    """A record in JSON is one printable line from which the value comes back exactly."""
    actual = show.json_line({"body": text})

    assert actual.isprintable()
    assert json.loads(actual) == {"body": text}


@given(st.binary())
def test_a_body_survives_json(body: bytes) -> None:
    """Bytes that are no UTF-8 go as base64, so that nothing is lost."""
    fields = show.body_fields(body)
    text = fields.get("body")
    encoded = json.dumps(fields.get("body_base64", "")).encode()
    actual = text.encode() if text is not None else msgspec.json.decode(encoded, type=bytes)

    assert body == actual


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-1, "0.00s"),
        (0.314, "0.31s"),
        (1, "1.0s"),
        (12.4, "12s"),
        (59.6, "1m00s"),
        (185, "3m05s"),
        (7800, "2h10m"),
        (352_800, "4d02h"),
    ],
)
def test_durations_read_as_people_say_them(seconds: float, expected: str) -> None:
    """The longer, the coarser."""
    assert expected == show.duration(seconds)


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0B"), (512, "512B"), (1536, "1.5KiB"), (10 * 2**30, "10GiB"), (2**50, "1024TiB")],
)
def test_sizes_read_as_people_say_them(count: int, expected: str) -> None:
    """Binary units, one decimal where it tells something."""
    assert expected == show.size(count)


def test_tables_align_and_escape() -> None:
    """Numbers stand to the right, text to the left, and a cell cannot break its line."""
    actual = show.table(("module", "waiting", ""), [("a", 1234, "x\ny"), ("split", 5, "")])

    assert actual == ["module  waiting", "a         1,234  x\\ny", "split         5"]


def test_a_table_without_rows_is_its_header() -> None:
    """Nothing to list is no error."""
    assert show.table(("a", "b"), []) == ["a  b"]


def test_long_text_is_cut_with_a_mark() -> None:
    """A cut can be seen."""
    assert show.shortened("abcdef", 4) == "abc…"


@pytest.mark.parametrize(("word", "expected"), [("chek", "; did you mean `check`?"), ("zzz", "")])
def test_suggestions_are_for_near_misses_only(word: str, expected: str) -> None:
    """A wild guess would not help."""
    assert expected == show.suggest(word, ["check", "plan"])


def test_letters_in_a_wrong_order_are_recognised_first() -> None:
    """`west` is as near by its letters, but nobody mistypes it so."""
    assert show.suggest("esat", ["west", "east"]) == "; did you mean `east`?"


def record_of(**extra: object) -> logging.LogRecord:
    """Return a log record of our own kind."""
    made = logging.makeLogRecord(
        {"name": "scalebox_actors.node", "msg": "run_reaped", "levelname": "INFO"}
    )
    made.created, made.msecs = 0.0, 7.0
    made.__dict__.update(extra)
    return made


def test_a_log_line_names_event_and_fields() -> None:
    """Text logs read from left to right: when, how grave, what, and then the fields."""
    actual = logbook.TextFormatter().format(record_of(run="sbx-1", why='two "words"', n=3))

    assert actual == '1970-01-01T00:00:00.007Z info run_reaped run=sbx-1 why="two \\"words\\"" n=3'


@pytest.mark.parametrize("formatter", [logbook.TextFormatter(), logbook.JsonFormatter()])
def test_a_log_record_is_one_line(formatter: logging.Formatter) -> None:
    """What a program printed cannot forge a second record, in either format."""
    actual = formatter.format(record_of(why="x\n1970-01-01T00:00:00Z info all_well\x1b[2J"))

    assert actual.isprintable()


def test_a_json_log_line_can_be_read_by_machines() -> None:
    """The event's fields keep their types; ours cannot be overwritten by them."""
    actual = json.loads(logbook.JsonFormatter().format(record_of(n=3, event="forged")))

    assert {"event": "run_reaped", "n": 3, "level": "info"}.items() <= actual.items()


def test_an_error_in_a_log_is_a_field() -> None:
    """A traceback would be many lines; its last is what tells."""
    told = record_of(exc_info=(ValueError, ValueError("no\nway"), None))
    actual = logbook.TextFormatter().format(told)

    assert actual.endswith(r'error="ValueError: no\nway"')
