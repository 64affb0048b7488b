"""What `send` makes of what was typed or piped: entries, lines, and refusals with their place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalebox_actors.cli.bodies import Splitter, file_body
from scalebox_actors.cli.sending import Sending, checked_headers, checked_id
from scalebox_actors.errors import BadInput, BadMessage
from scalebox_actors.message import MSG_ID, Raw, read
from scalebox_actors.names import Names, body_id, bound_for
from scalebox_actors.topology.model import Identity, Module, Route, Site, Topology

TOPOLOGY = Topology(
    name="t",
    modules={"a": Module(name="a"), "b": Module(name="b", identity=Identity.BODY)},
)


def sending(module: str = "a", **more: object) -> Sending:
    """Return what sends to a module."""
    given = {"headers": {}, "given_id": "", "body_limit": 100} | more
    return Sending(names=Names("t"), topology=TOPOLOGY, module=module, **given)  # type: ignore[arg-type]  # checked above


def all_lines(splitter: Splitter, *chunks: bytes) -> list[tuple[int, bytes]]:
    """Feed chunks to the end."""
    found = [line for chunk in chunks for line in splitter.feed(chunk)]
    return [*found, *splitter.end()]


def test_an_entry_is_a_message_that_an_actor_can_read() -> None:
    """What is sent is what arrives: body, headers, and itself as its root."""
    entry = sending(headers={"k": "v"}, given_id="mine").entry(b"\xff body")
    raw = Raw(subject=entry.subject, body=entry.body, headers=entry.headers)
    actual = read(raw, "a", "mine")

    assert (actual.body, actual.headers, actual.root) == (b"\xff body", {"k": "v"}, "mine")
    assert entry.subject == "sbx.t.local.task.a"


def test_ids_are_new_unless_they_are_given() -> None:
    """Two sends of one body are two messages; with `--id` lines are numbered."""
    fresh = {sending().entry(b"x").headers[MSG_ID] for _ in range(5)}

    assert len(fresh) == 5
    assert sending(given_id="g").entry(b"x", 7).headers[MSG_ID] == "g-7"


def test_identity_by_body_names_a_message_by_its_body() -> None:
    """With `identity: body` the same body is the same message, whoever sends it."""
    assert sending("b").entry(b"x").headers[MSG_ID] == body_id("b", b"x")


FAR = Topology(
    name="t",
    sites={"local": Site(name="local", hub=True), "x": Site(name="x")},
    modules={
        "a": Module(name="a", sites=("x",)),
        "b": Module(name="b", sites=("x",), identity=Identity.BODY),
        "c": Module(name="c", sites=("local", "x"), route=Route.SPREAD),
        "d": Module(name="d", sites=("local",)),
    },
)


@pytest.mark.parametrize(
    ("module", "given_id", "expected"),
    [
        pytest.param("a", "", ["sbx.t.local.out.x.a.x4"], id="far"),
        pytest.param("a", "mine", ["sbx.t.local.out.x.a"] * 4, id="ids-that-may-come-again"),
        pytest.param("b", "", ["sbx.t.local.out.x.b"] * 4, id="identity-by-body"),
        pytest.param("d", "", ["sbx.t.local.task.d"] * 4, id="here"),
    ],
)
def test_what_goes_to_another_site_goes_in_parcels(
    module: str, given_id: str, expected: list[str]
) -> None:
    """Unless its id may be sent again: then the server must see it, to know it as the same."""
    one = Sending(names=Names("t"), topology=FAR, module=module, body_limit=1000, given_id=given_id)
    packed = one.packed([one.entry(b"%d" % n, n + 1) for n in range(4)])

    assert [entry.subject for entry, _ in packed] == expected
    assert [place for _, place in packed] == list(range(len(expected)))


def test_each_message_is_in_one_place_wherever_it_goes() -> None:
    """Of messages for several sites those for here stay as they are; each tells its line."""
    one = Sending(names=Names("t"), topology=FAR, module="c", body_limit=100_000)
    entries = [one.entry(b"%d" % n) for n in range(40)]
    packed = one.packed(entries)
    here = [entry for entry in entries if ".task." in entry.subject]

    assert [entry for entry, _ in packed[:-1]] == here
    assert [entries[place] for _, place in packed[:-1]] == here
    assert bound_for(packed[-1][0].subject).count == 40 - len(here)
    assert MSG_ID in packed[-1][0].headers


def test_a_body_over_the_limit_is_refused() -> None:
    """Nothing that the server would refuse is sent."""
    with pytest.raises(BadMessage, match="101 bytes"):
        sending().entry(b"x" * 101)


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        pytest.param([b"a\nb\n"], [(1, b"a"), (2, b"b")], id="lines"),
        pytest.param([b"a\nb"], [(1, b"a"), (2, b"b")], id="no-final-line-break"),
        pytest.param([b"a\r\nb\r\n"], [(1, b"a"), (2, b"b")], id="cr-lf"),
        pytest.param([b"a\n\n\r\nb\n"], [(1, b"a"), (4, b"b")], id="empty-lines-count"),
        pytest.param([b"a", b"b\n", b"c"], [(1, b"ab"), (2, b"c")], id="cut-anywhere"),
        pytest.param([b" a \x00\xff\n"], [(1, b" a \x00\xff")], id="any-bytes"),
        pytest.param([], [], id="nothing"),
    ],
)
def test_lines(chunks: list[bytes], expected: list[tuple[int, bytes]]) -> None:
    """Each line that is not empty is a body with its number."""
    assert expected == all_lines(Splitter(10), *chunks)


@given(st.binary(max_size=200), st.integers(min_value=1, max_value=50))
def test_where_chunks_end_makes_no_difference(data: bytes, size: int) -> None:
    """Pipes cut as they like; the lines are the same."""
    chunks = [data[i : i + size] for i in range(0, len(data), size)]

    assert all_lines(Splitter(1000), data) == all_lines(Splitter(1000), *chunks)


@pytest.mark.parametrize("chunks", [[b"a\n", b"x" * 11 + b"\n"], [b"a\n" + b"x" * 12]])
def test_a_line_over_the_limit_is_named(chunks: list[bytes]) -> None:
    """The refusal has the line's number, and an endless line is not collected."""
    with pytest.raises(BadInput, match="standard input:2:"):
        all_lines(Splitter(10), *chunks)


def test_a_file_over_the_limit_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A huge file is not read to its end to find that out."""
    path = tmp_path_factory.mktemp("bodies") / "huge"
    with path.open("wb") as file:
        file.truncate(2**40)

    with pytest.raises(BadInput, match="over 100 bytes"):
        file_body(str(path), 100)


@pytest.mark.parametrize(
    "pairs",
    [
        [("Nats-TTL", "1s")],
        [("sbx-root", "x")],
        [("k", "v"), ("k", "w")],
        [("k", "v" * 257)],
        [("k" * 65, "v")],
        [("k", "grün")],
        [(f"k{i}", "v") for i in range(65)],
    ],
)
def test_headers_that_may_not_be_sent(pairs: list[tuple[str, str]]) -> None:
    """System headers, twins and headers over the limits are refused before anything is sent."""
    with pytest.raises(BadInput, match="--header"):
        checked_headers(pairs)


@pytest.mark.parametrize(
    ("given", "numbered", "good"),
    [
        ("a-b_c/1", False, True),
        ("x" * 128, False, True),
        ("x" * 128, True, False),
        ("", False, False),
        ("", True, False),
        ("_x", False, False),
        ("a b", False, False),
        ("a.b", False, False),
        ("ü", False, False),
    ],
)
def test_ids(given: str, numbered: bool, good: bool) -> None:
    """An id is one token of a subject, with room for the line's number where there will be one."""
    if good:
        assert checked_id(given, numbered=numbered) == given
    else:
        with pytest.raises(BadInput, match="--id"):
            checked_id(given, numbered=numbered)
