"""Messages: what is read from the wire, what is refused, and that nothing is lost between."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalebox_actors.errors import BadMessage, Transient
from scalebox_actors.message import (
    Message,
    Raw,
    check_size,
    check_user_headers,
    identify,
    read,
    wire_headers,
)

IDS = st.text(st.sampled_from("abcz019-_/"), min_size=1, max_size=20)
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)
NAMES = st.text(st.sampled_from("abcXYZ_09"), min_size=1, max_size=20)


def raw(body: bytes = b"x", **headers: str) -> Raw:
    """A message from the wire; `Sbx_Hop="1"` stands for the header `Sbx-Hop`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Raw(subject="sbx.t.local.task.m", body=body, headers=named)


@given(
    IDS.filter(lambda text: not text.startswith("_")),
    st.binary(max_size=64),
    st.dictionaries(NAMES, VALUES, max_size=8),
    st.integers(0, 64),
)
def test_a_message_survives_the_wire(
    message_id: str, body: bytes, headers: dict[str, str], hop: int
) -> None:
    """What is written to headers is read back as the same message."""
    message = Message(
        module="m", id=message_id, body=body, headers=headers, root="r", parent="p", hop=hop,
        from_module="a", from_host="h", from_ip="10.0.0.1", from_site="s", traceparent="00-1-2-3",
    )  # fmt: skip

    came = Raw(subject="s", body=body, headers=wire_headers(message))

    assert read(came, "m", message_id) == message


def test_a_bare_message_is_a_task() -> None:
    """A message without any header runs, as the root of its own lineage."""
    message = read(raw(b"100000"), "split", "_abc")

    assert message == Message(module="split", id="_abc", body=b"100000", root="_abc")


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        pytest.param({"Sbx_Hop": "65"}, "65 hops", id="too-many-hops"),
        pytest.param({"Sbx_Hop": "-1"}, "not a hop count", id="negative-hops"),
        pytest.param({"Sbx_Hop": "１"}, "not a hop count", id="other-digits"),  # noqa: RUF001
        pytest.param({"Sbx_Hop": "9" * 99}, "not a hop count", id="huge-hops"),
        pytest.param({"Sbx_Hop": ""}, "not a hop count", id="no-hops"),
        pytest.param({"Sbx_Headers": "{"}, "not a JSON object", id="broken-json"),
        pytest.param({"Sbx_Headers": '{"a":1}'}, "not a JSON object", id="number-value"),
        pytest.param({"Sbx_Headers": '["a"]'}, "not a JSON object", id="list"),
        pytest.param({"Sbx_Headers": '{"a":"ä"}'}, "ASCII", id="non-ascii-value"),
        pytest.param({"Sbx_Headers": '{"":"x"}'}, "header name", id="empty-name"),
        pytest.param({"Sbx_Root": "a.b"}, "not an id", id="forged-root"),
        pytest.param({"Sbx_From_Module": "A*"}, "not a name", id="forged-module"),
        pytest.param({"Sbx_Joined": "*"}, "not a group", id="forged-group"),
        pytest.param({"Sbx_Version": "x"}, "not a number", id="version-word"),
    ],
)
def test_a_bad_header_is_named(headers: dict[str, str], reason: str) -> None:
    """What can never be read is refused with the header that is to blame."""
    with pytest.raises(BadMessage, match=reason):
        read(raw(b"x", **headers), "m", "1")


def test_a_newer_version_may_be_read_by_somebody_else() -> None:
    """A message of a newer version is no bad message: it is given back."""
    with pytest.raises(Transient, match="version 2"):
        read(raw(Sbx_Version="2"), "m", "1")


def test_unknown_headers_are_ignored() -> None:
    """A header that we do not know, also one of ours to come, hurts nobody."""
    message = read(raw(Sbx_Later="x", Other="y"), "m", "1")

    assert message.headers == {}


@pytest.mark.parametrize("given_id", ["a.b", "a*", "a b", "", "ä", "x" * 129, "_reserved"])
def test_a_bad_id_is_replaced_and_then_refused(given_id: str) -> None:
    """A message with an unusable id gets a derived one, under which it is buried."""
    message = raw(Nats_Msg_Id=given_id)
    derived = identify(message, "2026-01-01", 7)

    assert derived.startswith("_")
    with pytest.raises(BadMessage, match="not an id"):
        read(message, "m", derived)


def test_a_good_id_is_kept() -> None:
    """The id that a publisher gave is the id of the task."""
    assert identify(raw(Nats_Msg_Id="job/7"), "2026-01-01", 7) == "job/7"


def test_the_readers_fault_is_the_reason() -> None:
    """What the header reader found wrong buries the message, with its words."""
    broken = Raw(subject="s", body=b"", headers={}, fault="Nats-Msg-Id is given twice")

    with pytest.raises(BadMessage, match="given twice"):
        read(broken, "m", "1")


@pytest.mark.parametrize(
    "headers",
    [
        {f"h{i}": "" for i in range(65)},
        {"n" * 65: "x"},
        {"a": "v" * 257},
        {"a": "line\nbreak"},
        {"a\r": "x"},
    ],
    ids=["65-headers", "long-name", "long-value", "newline", "cr-in-name"],
)
def test_user_headers_have_limits(headers: dict[str, str]) -> None:
    """At most 64 headers, names to 64, values to 256 printable ASCII characters."""
    with pytest.raises(BadMessage):
        check_user_headers(headers)


def test_sizes_are_checked_with_headers() -> None:
    """A body at the limit passes, one byte more does not, nor a header block over 16 KiB."""
    check_size(b"x" * 100, {}, 100)
    with pytest.raises(BadMessage, match="101 bytes"):
        check_size(b"x" * 101, {}, 100)
    with pytest.raises(BadMessage, match="headers take"):
        check_size(b"", {"A": "v" * 17_000}, 100)
