"""Header blocks and commands: hostile bytes in, values and faults out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalebox_actors.broker.wire import (
    command,
    header_block,
    is_subject,
    matches,
    read_headers,
    read_reply,
)
from scalebox_actors.errors import BadMessage

TOKENS = st.text(st.sampled_from("abcXYZ019-_$"), min_size=1, max_size=12)
VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40)


@given(st.dictionaries(TOKENS, VALUES, max_size=8))
def test_what_is_written_can_be_read(headers: dict[str, str]) -> None:
    """Encoding and reading headers is the identity."""
    assert read_headers(header_block(headers)) == (headers, "")


@given(st.binary(max_size=200))
def test_no_bytes_raise(block: bytes) -> None:
    """Whatever stands in a header block, reading it returns."""
    for prefix in (b"", b"NATS/1.0\r\n", b"NATS/1.0 ", b"NATS/1.0\r\nNats-Msg-Id: "):
        headers, fault = read_headers(prefix + block)
        reply = read_reply(prefix + block, b"")

        assert isinstance(headers, dict)
        assert isinstance(fault, str)
        assert reply.status >= 0


@pytest.mark.parametrize(
    ("block", "fault"),
    [
        pytest.param(b"N", "1 bytes cannot be read", id="one-byte"),
        pytest.param(b"NATS/1.0", "8 bytes cannot be read", id="eight-bytes"),
        pytest.param(b"NATS/1.1\r\n\r\n", "cannot be read", id="other-version"),
        pytest.param(b"NATS/1.0 503\r\n\r\n", "status line", id="status"),
        pytest.param(b"NATS/1.0\r\nA: 1\r\n", "empty line", id="no-end"),
        pytest.param(b"NATS/1.0\r\nA: 1", "empty line", id="cut"),
        pytest.param(b"NATS/1.0\r\nA 1\r\n\r\n", "not `name: value`", id="no-colon"),
        pytest.param(b"NATS/1.0\r\n: 1\r\n\r\n", "not `name: value`", id="no-name"),
        pytest.param(b"NATS/1.0\r\nA : 1\r\n\r\n", "not `name: value`", id="space-before-colon"),
        pytest.param(b"NATS/1.0\r\nA: 1\r\n B: 2\r\n\r\n", "not `name: value`", id="folded"),
        pytest.param(b"NATS/1.0\r\nA: \0\r\n\r\n", "control characters", id="nul"),
        pytest.param(b"NATS/1.0\r\nA: \xff\r\n\r\n", "not ASCII", id="latin-1"),
        pytest.param("NATS/1.0\r\nÄ: 1\r\n\r\n".encode(), "not ASCII", id="name"),
        pytest.param(b"NATS/1.0\r\nSbx-Hop: 1\r\nSbx-Hop: 2\r\n\r\n", "repeated", id="repeated"),
        pytest.param(
            b"NATS/1.0\r\nNats-Msg-Id: a\r\nNats-Msg-Id: b\r\n\r\n", "repeated", id="repeated-id"
        ),
        pytest.param(b"NATS/1.0\r\nA: " + b"x" * 18_000 + b"\r\n\r\n", "at most", id="too-long"),
    ],
)
def test_a_bad_block_has_a_fault(block: bytes, fault: str) -> None:
    """Each way to write a bad block is named."""
    assert fault in read_headers(block)[1]


def test_oddities_that_are_no_faults() -> None:
    """No space after the colon, a tab, colons in values, repeated headers of the user's own."""
    block = b"NATS/1.0\r\nA:1\r\nB:\t2\r\nC: x: y\r\nD: 1\r\nD: 2\r\nnats-msg-id: z\r\n\r\n"

    headers, fault = read_headers(block)

    assert fault == ""
    assert headers == {"A": "1", "B": "2", "C": "x: y", "D": "2", "nats-msg-id": "z"}


@pytest.mark.parametrize(
    "headers", [{"A": "1\r\nB: 2"}, {"A\n": "1"}, {"A": "ü"}, {"": "1"}, {"A": "\r"}]
)
def test_bad_headers_are_not_written(headers: dict[str, str]) -> None:
    """Nobody can smuggle a second header, or a command, into a block."""
    with pytest.raises(BadMessage):
        header_block(headers)


def test_commands_count_their_bytes() -> None:
    """Sizes are of bytes, with and without headers."""
    block = header_block({"A": "1"})

    assert command("s", "r", b"", b"xy") == b"PUB s r 2\r\nxy\r\n"
    assert command("s", "", block, b"xy") == b"HPUB s  18 20\r\n" + block + b"xy\r\n"


def test_a_status_has_a_number_and_a_text() -> None:
    """Status lines of the server are told apart from data."""
    expired = read_reply(b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 3\r\n\r\n", b"")
    data = read_reply(b"NATS/1.0\r\nNats-Sequence: 9\r\n\r\n", b"x")

    assert (expired.status, expired.text) == (408, "Request Timeout")
    assert expired.headers == {"Nats-Pending-Messages": "3"}
    assert (data.status, data.body, data.headers) == (0, b"x", {"Nats-Sequence": "9"})
    assert read_reply(None, b"y").body == b"y"


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        ("a.*.c", "a.b.c", True),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        ("a.b", "a.b.c", False),
        ("a.b.c", "a.b", False),
        ("a.*", "a.b.c", False),
        (">", "a", True),
    ],
)
def test_patterns(pattern: str, subject: str, expected: bool) -> None:
    """Wildcards match as the server matches them."""
    assert matches(pattern, subject) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sbx.t.s.task.m", True),
        ("$KV.B.k", True),
        ("a-b.c=d/e", True),
        ("", False),
        ("a..b", False),
        (".a", False),
        ("a.", False),
        ("a.*", False),
        ("a.>", False),
        ("a b", False),
        ("a\r\nPUB x 1", False),
        ("ä", False),
    ],
)
def test_subjects_to_publish_to(text: str, expected: bool) -> None:
    """Only printable tokens without wildcards may be published to."""
    assert is_subject(text) is expected
