"""Parcels: many messages in one, each as it was, and nothing of them believed when they come."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalebox_actors.errors import BadMessage
from scalebox_actors.limits import HEADER_BLOCK_BYTES, MIB, PARCEL_BYTES, PARCEL_MESSAGES
from scalebox_actors.message import MSG_ID, Raw
from scalebox_actors.names import BoundFor, Names, bound_for, parcel_of
from scalebox_actors.parcel import lots, pack, seal, unpack
from scalebox_actors.ports import Entry

NAMES = Names("t", "hub")
OUT = NAMES.out("a", "calc")
NOT_UTF8 = msgspec.Raw(b"\x92\x81\xa1A\xa1\xff\xc4\x00")
"""A message in a parcel whose header `A` is one byte that no text has alone."""
TEXT = st.text(st.characters(codec="ascii", categories=["L", "N", "P", "Zs"]), max_size=20)


def entry(number: int, body: bytes = b"x", subject: str = OUT) -> Entry:
    """A message that waits to be carried."""
    return Entry(subject=subject, body=body, headers={MSG_ID: f"m{number}"})


def raw_of(sealed: Entry) -> Raw:
    """What comes out of the stream for what was stored."""
    return Raw(subject=sealed.subject, body=sealed.body, headers=sealed.headers)


def hostile(*inside: object) -> Raw:
    """A parcel that says what it holds, made by somebody else."""
    return Raw(subject=parcel_of(OUT, len(inside)), body=msgspec.msgpack.encode(inside), headers={})


@given(st.lists(st.tuples(TEXT, st.binary(max_size=300)), min_size=2, max_size=20))
def test_what_comes_out_is_what_went_in(messages: list[tuple[str, bytes]]) -> None:
    """Ids, headers and bodies, byte for byte and in their order."""
    entries = [
        Entry(subject=OUT, body=body, headers={MSG_ID: f"m{n}", "Sbx-Headers": text})
        for n, (text, body) in enumerate(messages)
    ]
    sealed = seal(entries)
    found = unpack(raw_of(sealed), bound_for(sealed.subject).count)

    assert [(raw.body, raw.headers, raw.fault) for raw in found] == [
        (one.body, one.headers, "") for one in entries
    ]


def test_a_lone_message_stays_as_it_is() -> None:
    """Whoever has one message to send stores it as any client would."""
    assert pack([entry(1)], MIB) == [entry(1)]


def test_only_what_goes_to_one_module_of_one_site_shares_a_parcel() -> None:
    """The subject says for whom a parcel is, and how many messages it holds."""
    other = NAMES.out("b", "calc")
    packed = pack([entry(1), entry(2, subject=other), entry(3), entry(4)], MIB)

    assert [one.subject for one in packed] == [f"{OUT}.x3", other]


@pytest.mark.parametrize(
    ("sizes", "limit", "expected"),
    [
        pytest.param([1] * (PARCEL_MESSAGES + 2), MIB, [PARCEL_MESSAGES, 2], id="messages"),
        pytest.param([PARCEL_BYTES // 2] * 3, MIB, [1, 1, 1], id="bytes"),
        pytest.param([PARCEL_BYTES // 3] * 4, MIB, [2, 2], id="bytes-of-two"),
        pytest.param([MIB // 2, 1, 1], MIB, [1, 2], id="larger-than-a-parcel"),
        pytest.param([400] * 4, 1000, [2, 2], id="a-server-that-takes-little"),
    ],
)
def test_a_parcel_is_bounded(sizes: list[int], limit: int, expected: list[int]) -> None:
    """In messages and bytes, and by what the server takes; nothing is left out."""
    entries = [entry(n, bytes(size)) for n, size in enumerate(sizes)]
    found = lots(entries, limit)

    assert [len(lot) for lot in found] == expected
    assert sorted(place for lot in found for place in lot) == list(range(len(sizes)))
    assert all(len(seal([entries[p] for p in lot]).body) <= MIB for lot in found)


def test_the_id_of_a_parcel_follows_from_its_messages() -> None:
    """A parcel that is published twice is one; a commit needs none, its record is its fence."""
    entries = [entry(1), entry(2)]

    assert seal(entries, named=True).headers == seal(list(entries), named=True).headers
    assert seal(entries, named=True).headers != seal([entry(1), entry(3)], named=True).headers
    assert seal(entries).headers == {}


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        pytest.param(OUT, BoundFor("a", "calc", 1, False), id="alone"),
        pytest.param(f"{OUT}.x256", BoundFor("a", "calc", 256, True), id="parcel"),
        pytest.param(f"{OUT}.x0", BoundFor("a", "calc", 1, True), id="none"),
        pytest.param(f"{OUT}.x1234", BoundFor("a", "calc", 1, True), id="too-many"),
        pytest.param(f"{OUT}.y2", BoundFor("a", "calc", 1, True), id="something-else"),
    ],
)
def test_what_waits_can_be_counted_by_its_subject(subject: str, expected: BoundFor) -> None:
    """Sums are exact without a look inside; a strange subject counts as what it is, one."""
    assert expected == bound_for(subject)


@pytest.mark.parametrize(
    ("inside", "says"),
    [
        pytest.param(({"A": "b"}, 7), "in a parcel", id="body-is-a-number"),
        pytest.param(({"A": 1}, b""), "in a parcel", id="value-is-a-number"),
        pytest.param("nonsense", "in a parcel", id="no-pair"),
        pytest.param(({"A": "b\r\nC: d"}, b""), "printable", id="line-break-in-a-value"),
        pytest.param(({"A: b\r\nC": "d"}, b""), "name", id="line-break-in-a-name"),
        pytest.param(({"": "d"}, b""), "name", id="empty-name"),
        pytest.param(({"A": "ä"}, b""), "printable", id="not-ascii"),
        pytest.param(({"A": "x" * HEADER_BLOCK_BYTES}, b""), "bytes", id="headers-too-large"),
        pytest.param(NOT_UTF8, "in a parcel", id="value-is-not-utf-8"),
    ],
)
def test_one_bad_message_spoils_no_other(inside: object, says: str) -> None:
    """It has its fault, and what is beside it is whole."""
    first, second, third = unpack(hostile(({}, b"1"), inside, ({"K": "v"}, b"3")), 3)

    assert says in second.fault
    assert (first.body, first.fault) == (b"1", "")
    assert (third.body, third.headers, third.fault) == (b"3", {"K": "v"}, "")


@pytest.mark.parametrize(
    ("body", "count"),
    [
        pytest.param(b"", 2, id="empty"),
        pytest.param(b"\xff\x00", 2, id="noise"),
        pytest.param(msgspec.msgpack.encode([({}, b"")]), 2, id="fewer-than-it-says"),
        pytest.param(msgspec.msgpack.encode([({}, b"")] * 3), 2, id="more-than-it-says"),
        pytest.param(msgspec.msgpack.encode([1] * 3), 2, id="more-and-unreadable"),
        pytest.param(msgspec.msgpack.encode([1] * 5000), 5000, id="more-than-any-holds"),
        pytest.param(b"\xdd\xff\xff\xff\xff", 2, id="a-length-that-cannot-be"),
        pytest.param(b"\x91" * 100_000, 2, id="deep"),
    ],
)
def test_what_is_no_parcel_is_refused_whole(body: bytes, count: int) -> None:
    """It is set aside as one message, since nobody can tell where messages begin."""
    with pytest.raises(BadMessage):
        unpack(Raw(subject=parcel_of(OUT, count), body=body, headers={}), count)


def test_the_fault_of_a_parcels_own_headers_is_its_fault() -> None:
    """What the header reader found wrong is told."""
    with pytest.raises(BadMessage, match="repeated"):
        unpack(Raw(subject=OUT, body=b"", headers={}, fault="a header is repeated"), 2)
