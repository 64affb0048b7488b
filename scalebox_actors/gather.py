"""Fan-in without a container: members of a group are counted, then one joined message is sent.

Pure. A group's count is one message on `join.M.<group>`, replaced by compare-and-set in the same
atomic batch that consumes the members; so the count is exact whatever dies, and exactly one
commit, the one that completes the group, also holds the joined message.
"""

import re
from collections.abc import Sequence

import msgspec

from scalebox_actors.errors import UNREADABLE, BadMessage
from scalebox_actors.limits import GROUP_MEMBERS, HOPS_CEILING
from scalebox_actors.message import (
    HOP,
    JOINED,
    MSG_ID,
    MSG_TTL,
    PARENT,
    ROOT,
    USER,
    Message,
    Raw,
    read,
    wire_headers,
)
from scalebox_actors.names import Names, digest
from scalebox_actors.ports import Entry, Stored
from scalebox_actors.topology.model import Gather

LINEAGE = "root"
KEY_CHARACTERS = 256
SEARCHED_CHARACTERS = 4096
"""So much of a body is searched for its group: a slow expression must not hold the node up."""

_encode = msgspec.json.Encoder().encode


class Joining(msgspec.Struct, frozen=True, kw_only=True):
    """One member on its way into its group."""

    module: str
    key: str
    """The group as the user names it."""
    need: int
    message: Message
    entry: Entry
    subject: str
    """Where the group is counted."""

    @property
    def group(self) -> str:
        """The group's token in subjects, and the id of its joined message."""
        return self.subject.rpartition(".")[2]


class Group(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The count of a group, as it is stored."""

    module: str
    key: str
    need: int
    count: int = 0
    opened: float = 0.0
    """When its first count was stored, by the server's clock; 0 in that first count itself."""
    released: bool = False
    root: str = ""
    hop: int = 0


class Fold(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch stores for one group, and how many of the members found room in it."""

    entries: tuple[Entry, ...]
    accepted: int


def token_of(module: str, key: str) -> str:
    """Return a group's token in subjects, which is the id of its joined message too."""
    return digest("gather", module, key)


def group_of(names: Names, gather: Gather, message: Message) -> Joining:
    """Say which group a member belongs to; raises BadMessage if it does not tell."""
    key = _key(gather, message)
    token = token_of(message.module, key)
    headers = wire_headers(message)
    headers.pop(MSG_ID)  # the done-record fences a member; the window must not refuse it
    return Joining(
        module=message.module,
        key=key,
        need=_need(gather.count, message),
        message=message,
        subject=names.group(message.module, token),
        entry=Entry(
            subject=names.member(message.module, token, message.id),
            body=message.body,
            headers=headers,
            expect=0,
        ),
    )


def fold(names: Names, stored: Stored | None, joinings: Sequence[Joining]) -> Fold:
    """Return what the arrival of members of one group stores, given the group's last count.

    Those beyond the number that the group needs are late: they find no room. Raises BadMessage if
    the count is none of ours.
    """
    first = joinings[0]
    group = decode(stored) if stored else _opened(first)
    if group.released:
        return Fold(entries=(), accepted=0)
    if stored is not None:
        group = msgspec.structs.replace(group, opened=opened_at(group, stored))
    taken = list(joinings[: group.need - group.count])
    group = msgspec.structs.replace(
        group,
        count=group.count + len(taken),
        hop=max([group.hop, *(joining.message.hop for joining in taken)]),
    )
    entries = [joining.entry for joining in taken]
    if group.count == group.need:
        return Fold(
            entries=(*entries, *release(names, group, stored, last=taken[-1])),
            accepted=len(taken),
        )
    count = _count(first.subject, group, stored, {})
    return Fold(entries=(*entries, count), accepted=len(taken))


def opened_at(group: Group, stored: Stored) -> float:
    """Return when a group was opened, given its newest count as it is stored.

    It counts from the first member that was taken, not from when that was sent: members may have
    waited for an outage to end, and their time begins when they are looked at.
    """
    return group.opened or stored.time


def release(
    names: Names, group: Group, stored: Stored | None, *, last: Joining | None = None
) -> tuple[Entry, Entry]:
    """Let a group go: its count that says so, and its joined message.

    That count stays until the group's members need not be kept, see `closed`: if its life could
    end before, an earlier count would be the newest again and the group open. The joined message
    carries the `_` headers of the member that completed the group.
    """
    token = token_of(group.module, group.key)
    released = msgspec.structs.replace(group, released=True)
    count = _count(names.group(group.module, token), released, stored, {})
    headers = {
        MSG_ID: token,
        JOINED: token,
        ROOT: group.root or token,
        HOP: str(group.hop),
    }
    if last is not None:
        headers[PARENT] = last.message.id
        passed = {k: v for k, v in last.message.headers.items() if k.startswith("_")}
        if passed:
            headers[USER] = _encode(passed).decode()
    body = _encode({"group": group.key, "count": group.count, "need": group.need})
    return count, Entry(subject=names.task(group.module), body=body, headers=headers)


def closed(group: Group, stored: Stored, *, life: float) -> Entry:
    """Return the last count of a group whose members are gone: its name is free after `life`."""
    return _count(stored.subject, group, stored, {MSG_TTL: f"{round(life)}s"})


def joined_body(key: str, members: Sequence[Message]) -> bytes:
    """Return the body that the program of a gathering module gets.

    `{"group": …, "count": n, "members": [body, …]}`; a body that is not UTF-8 stands as
    `{"base64": …}`.
    """
    listed = [_text_or_base64(member.body) for member in members]
    return _encode({"group": key, "count": len(members), "members": listed})


def key_of(joined: Message) -> str:
    """Return the group, as the user names it, that a joined message stands for.

    Raises BadMessage if the message was not made by `release`.
    """
    try:
        return str(msgspec.json.decode(joined.body, type=dict[str, str | int])["group"])
    except (*UNREADABLE, KeyError) as error:
        raise BadMessage(f"the joined message does not name its group: {error!r}") from error


def member_of(stored: Stored, module: str) -> Message:
    """Return the message that a stored member was when it arrived."""
    headers = dict(stored.headers)
    member_id = stored.subject.rpartition(".")[2]
    headers[MSG_ID] = member_id
    raw = Raw(subject=stored.subject, body=stored.body, headers=headers)
    return read(raw, module, member_id, hops=HOPS_CEILING)  # counted when it arrived


def decode(stored: Stored) -> Group:
    """Read a stored count; raises BadMessage if somebody else wrote it."""
    try:
        group = msgspec.json.decode(stored.body, type=Group)
    except UNREADABLE as error:
        raise BadMessage(f"the count of a group cannot be read: {error}") from error
    possible = 0 < group.count <= group.need <= GROUP_MEMBERS
    if not possible or (group.count == group.need and not group.released):
        raise BadMessage(f"the count of a group cannot be {group.count} of {group.need}")
    if token_of(group.module, group.key) != stored.subject.rpartition(".")[2]:
        raise BadMessage(f"the count of group {group.key[:80]!r} is stored for another one")
    return group


def _opened(first: Joining) -> Group:
    return Group(
        module=first.module,
        key=first.key,
        need=first.need,
        root=first.message.root,
    )


def _count(subject: str, group: Group, stored: Stored | None, headers: dict[str, str]) -> Entry:
    expect = stored.sequence if stored else 0
    return Entry(subject=subject, body=_encode(group), headers=headers, expect=expect)


def _key(gather: Gather, message: Message) -> str:
    by = gather.by
    if by == LINEAGE:
        return message.root
    if gather.by_header:
        key = message.contract_headers.get(by, "")
        if not key:
            raise BadMessage(f"gather: the message has no header {by!r}")
        return key
    found = re.search(by, message.body[:SEARCHED_CHARACTERS].decode("utf-8", "replace"))
    if found is None:
        raise BadMessage(f"gather: the body does not match {by!r}")
    key = found.group(1) if found.re.groups else found.group(0)
    if not key or len(key) > KEY_CHARACTERS:
        raise BadMessage(f"gather: {by!r} gives a group name of {len(key or '')} characters")
    return key


def _need(count: str | int, message: Message) -> int:
    text = str(count) if isinstance(count, int) else message.contract_headers.get(count, "")
    if not (text.isascii() and text.isdigit()) or not 0 < int(text[:9]) <= GROUP_MEMBERS:
        raise BadMessage(
            f"gather: header {count!r} is {text[:40]!r}, not a count of 1 to {GROUP_MEMBERS}"
        )
    return int(text)


def _text_or_base64(body: bytes) -> str | dict[str, bytes]:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": body}  # msgspec writes bytes as base64
