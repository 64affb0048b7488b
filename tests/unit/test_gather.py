"""Fan-in: whatever the order and the grouping of arrivals, a group is let go exactly once."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalebox_actors import gather
from scalebox_actors.errors import BadMessage
from scalebox_actors.gather import Fold, Joining, fold, group_of, joined_body
from scalebox_actors.message import JOINED, MSG_ID, MSG_TTL, PARENT, USER, Message
from scalebox_actors.names import Names
from scalebox_actors.ports import Entry, Stored
from scalebox_actors.topology.model import Gather

NAMES = Names("t")


def member(number: int, need: int = 3, rules: Gather | None = None, body: bytes = b"x") -> Joining:
    """The member of group `g` with this number, stored at that time."""
    headers = {"group": "g", "parts": str(need), "_kept": "yes"}
    message = Message(module="m", id=f"i{number}", body=body, root="r", headers=headers)
    return group_of(NAMES, rules or Gather(by="group", count="parts"), message)


def stored(entry: Entry, sequence: int) -> Stored:
    """An entry as the stream would hold it."""
    return Stored(
        subject=entry.subject, body=entry.body, headers=entry.headers, sequence=sequence, time=0.0
    )


def count_in(entries: tuple[Entry, ...]) -> Entry | None:
    """The count among the entries of a fold."""
    subject = member(0).subject
    return next((entry for entry in entries if entry.subject == subject), None)


def joined_in(entries: tuple[Entry, ...]) -> list[Entry]:
    """The joined messages among entries."""
    return [entry for entry in entries if JOINED in entry.headers]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.integers(1, 12))
def test_a_group_is_let_go_exactly_once(chunks: list[int], need: int) -> None:
    """Members come in any chunks: one joined message, in the chunk that completes the group."""
    count: Stored | None = None
    joined: list[Entry] = []
    accepted, number = 0, 0
    for sequence, chunk in enumerate(chunks, 1):
        members = [member(number + i, need) for i in range(chunk)]
        number += chunk
        folded = fold(NAMES, count, members)
        accepted += folded.accepted
        joined += joined_in(folded.entries)
        written = count_in(folded.entries)
        if written is not None:
            assert written.expect == (count.sequence if count else 0)
            count = stored(written, sequence)

    assert accepted == min(number, need)
    assert len(joined) == (1 if number >= need else 0)


def test_the_joined_message_names_its_group() -> None:
    """Its id is the group's, so it is one message; it carries `_` headers and the lineage."""
    folded = fold(NAMES, None, [member(i) for i in range(3)])

    (joined,) = joined_in(folded.entries)
    assert joined.subject == "sbx.t.local.task.m"
    assert joined.headers[MSG_ID] == joined.headers[JOINED] == member(0).group
    assert joined.headers[PARENT] == "i2"
    assert msgspec.json.decode(joined.headers[USER]) == {"_kept": "yes"}
    assert msgspec.json.decode(joined.body) == {"group": "g", "count": 3, "need": 3}


def test_a_group_that_was_let_go_stays_so_until_its_members_are_gone() -> None:
    """Its count says `released` and has no life of its own before; until its end all are late."""
    count = count_in(fold(NAMES, None, [member(i) for i in range(3)]).entries)

    assert count is not None
    assert MSG_TTL not in count.headers
    last = gather.closed(gather.decode(stored(count, 9)), stored(count, 9), life=65)
    assert (last.expect, last.body, last.headers) == (9, count.body, {MSG_TTL: "65s"})
    assert fold(NAMES, stored(count, 9), [member(4)]) == Fold(entries=(), accepted=0)


@pytest.mark.parametrize(
    ("by", "body", "key"),
    [
        pytest.param("root", b"x", "r", id="lineage"),
        pytest.param("group", b"x", "g", id="header"),
        pytest.param(r"^(\w+)/", b"obs7/ch1", "obs7", id="first-group"),
        pytest.param(r"obs\d", b"at obs7", "obs7", id="whole-match"),
    ],
)
def test_a_group_is_found(by: str, body: bytes, key: str) -> None:
    """By lineage, header or expression."""
    assert member(0, rules=Gather(by=by, count=2), body=body).key == key


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        (Gather(by="absent", count=2), "no header 'absent'"),
        (Gather(by="^z", count=2), "does not match"),
        (Gather(by="group", count="absent"), "not a count"),
        (Gather(by="group", count="group"), "not a count"),
    ],
)
def test_a_member_that_does_not_tell_is_refused(rules: Gather, reason: str) -> None:
    """Without group or count a member cannot be counted, and says which is missing."""
    with pytest.raises(BadMessage, match=reason):
        member(0, rules=rules)


def test_the_program_gets_the_bodies() -> None:
    """The members' bodies in order of arrival; one that is no text as base64."""
    members = [Message(module="m", id=str(i), body=body) for i, body in enumerate((b"a", b"\xff"))]

    body = joined_body("g", members)

    assert msgspec.json.decode(body) == {
        "group": "g",
        "count": 2,
        "members": ["a", {"base64": "/w=="}],
    }


def test_a_stored_member_is_read_back() -> None:
    """A member is handed to the program as the message it was."""
    joining = member(3)

    back = gather.member_of(stored(joining.entry, 1), "m")

    assert back == joining.message


@pytest.mark.parametrize("body", [b"{}", b'{"key":"\xff","group":"\xff"}', b"[" * 100_000])
def test_forged_state_is_named(body: bytes) -> None:
    """A count or a joined message that we did not write is refused, not believed."""
    count = stored(Entry(subject=member(0).subject, body=body), 1)
    with pytest.raises(BadMessage, match="cannot be read"):
        gather.decode(count)
    with pytest.raises(BadMessage, match="does not name its group"):
        gather.key_of(Message(module="m", id="1", body=body))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"need": 0}, "cannot be 1 of 0"),
        ({"need": 10_001}, "cannot be 1 of 10001"),
        ({"count": 0}, "cannot be 0 of 3"),
        ({"count": 4}, "cannot be 4 of 3"),
        ({"count": 3}, "cannot be 3 of 3"),
        ({"key": "h"}, "group 'h' is stored for another one"),
    ],
)
def test_a_count_that_cannot_be_is_named(change: dict[str, object], reason: str) -> None:
    """A count out of its bounds, or under another group's subject, was not written by us."""
    group = {"module": "m", "key": "g", "need": 3, "count": 1} | change
    body = msgspec.json.encode(group)

    with pytest.raises(BadMessage, match=reason):
        fold(NAMES, stored(Entry(subject=member(0).subject, body=body), 1), [member(0)])


def test_a_member_from_far_away_is_read_back() -> None:
    """A topology may allow more hops than usual: a member that was taken in can be read again."""
    message = Message(module="m", id="i1", body=b"x", root="r", hop=900)
    entry = group_of(NAMES, Gather(by="root", count=2), message).entry

    assert gather.member_of(stored(entry, 1), "m") == message
