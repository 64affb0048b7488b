"""Names: the grammar, the subjects, and ids that depend on what they should."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalebox_actors.errors import BadInput
from scalebox_actors.names import (
    Names,
    attempts_key,
    body_id,
    check_name,
    child_id,
    derived_id,
    digest,
    is_id,
    is_name,
    is_reserved_id,
    run_name,
)


@pytest.mark.parametrize("text", ["a", "a_b", "a--b", "a-", "a" * 48, "z9"])
def test_a_name_is_accepted(text: str) -> None:
    """Lower-case letters, digits, `-` and `_`, a letter first, at most 48."""
    assert is_name(text)


@pytest.mark.parametrize(
    "text",
    ["", "a" * 49, "A", "-a", "_a", "9a", "a.b", "a*", "a>", "a b", "$JS", "\u0430", "a/b", "a\n"],
)
def test_a_name_is_refused(text: str) -> None:
    """Whatever could change the meaning of a subject or a path is no name."""
    with pytest.raises(BadInput, match="is not a name"):
        check_name("module", text)


def test_subjects_are_literal() -> None:
    """Every subject of DESIGN section 5, as a person would type it."""
    names = Names("primes", "hub")

    assert names.stream == "SBX_primes_AT_hub"
    assert names.trace_stream == "SBX_primes_AT_hub_TRACE"
    assert names.task("split") == "sbx.primes.hub.task.split"
    assert names.done("split", "7") == "sbx.primes.hub.done.split.7"
    assert names.dead("split", "7") == "sbx.primes.hub.dead.split.7"
    assert names.group("total", "g") == "sbx.primes.hub.join.total.g"
    assert names.member("total", "g", "7") == "sbx.primes.hub.join.total.g.7"
    assert names.result("total") == "sbx.primes.hub.result.total"
    assert names.ctl("status") == "sbx.primes.hub.ctl.status"
    assert names.state("try.a.7") == "$KV.SBX_primes_AT_hub.try.a.7"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("job-1", True), ("a/b", True), ("x" * 128, True), ("", False), ("x" * 129, False),
        ("a.b", False), ("a*b", False), ("a>b", False), ("a b", False), ("ä", False),
        ("a\n", False),
    ],
)  # fmt: skip
def test_an_id_is_one_token_of_a_subject(text: str, expected: bool) -> None:
    """Ids are printable ASCII without what a subject gives a meaning."""
    assert is_id(text) is expected


def test_derived_ids_are_reserved() -> None:
    """An id that we derive can never be given by a publisher, and depends on the stream's birth."""
    first, reborn = derived_id("2026-01-01T00:00:00Z", 1), derived_id("2026-01-02T00:00:00Z", 1)

    assert is_reserved_id(first)
    assert is_id(first)
    assert first != reborn


@given(st.lists(st.text(max_size=8), max_size=4), st.lists(st.text(max_size=8), max_size=4))
def test_digests_tell_parts_apart(left: list[str], right: list[str]) -> None:
    """Two lists of parts have one digest only if they are the same list."""
    if any("\0" in part for part in left + right):
        return

    assert (digest(*left) == digest(*right)) is (
        left == right or "\0".join(left) == "\0".join(right)
    )


def test_child_ids_depend_on_every_part() -> None:
    """Parent module, parent id, sink and index each change the id of an output."""
    ids = {
        child_id("a", "1", "b", 0),
        child_id("x", "1", "b", 0),
        child_id("a", "2", "b", 0),
        child_id("a", "1", "c", 0),
        child_id("a", "1", "b", 1),
    }

    assert len(ids) == 5
    assert child_id("a", "1", "b", 0) == child_id("a", "1", "b", 0)


def test_body_ids_ignore_where_a_body_comes_from() -> None:
    """With `identity: body` the module and the body are the whole identity."""
    assert body_id("m", b"x") == body_id("m", b"x")
    assert body_id("m", b"x") != body_id("n", b"x")


def test_run_names_fit_every_engine() -> None:
    """A run is named by topology, module and id; ids with odd characters are hashed."""
    own = "a" * 26

    assert run_name("t", "m", own) == f"sbx-t.m.{own}"
    assert run_name("t", "m", "a/b").startswith("sbx-t.m.")
    assert "/" not in run_name("t", "m", "a/b")
    assert run_name("t", "m", "a/b") != run_name("t", "n", "a/b")
    assert run_name("t", "m", "a/b") != run_name("t", "m", digest("a/b")), "an id of its own"
    assert attempts_key("m", "a/b") != attempts_key("m", digest("a/b"))
