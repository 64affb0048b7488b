"""Messages on their way to a module: from a body and what was typed to an entry. Pure."""

import secrets
from collections.abc import Mapping, Sequence

import msgspec

from scalebox_actors.errors import BadInput, BadMessage
from scalebox_actors.message import Message, check_size, check_user_headers, wire_headers
from scalebox_actors.names import Names, body_id, digest, is_id, is_reserved_id
from scalebox_actors.parcel import lots, seal
from scalebox_actors.placement import TO_SITE, Bound, choose
from scalebox_actors.ports import Entry
from scalebox_actors.topology.model import Identity, Topology

_SYSTEM = ("nats-", "sbx-")


class Sending(msgspec.Struct, frozen=True, kw_only=True):
    """Makes the messages of one `send`."""

    names: Names
    topology: Topology
    module: str
    body_limit: int
    headers: Mapping[str, str] = {}
    given_id: str = ""

    def entry(self, body: bytes, number: int = 0) -> Entry:
        """Return the message of a body; `number` is its line, 0 if it is the only one.

        Raises BadMessage if it is over a limit, or asks for a site where its module is not.
        """
        message = Message(
            module=self.module, id=self._id(body, number), body=body, headers=self.headers
        )
        headers = wire_headers(message)
        check_size(body, headers, self.body_limit)
        bound = Bound(
            id=message.id,
            body=body,
            to_site=self.headers.get(TO_SITE, ""),
            repeatable=bool(self.given_id),
        )
        site = choose(self.topology, self.names.site, self.module, bound)
        here = site == self.names.site
        subject = self.names.task(self.module) if here else self.names.out(site, self.module)
        return Entry(subject=subject, body=body, headers=headers)

    def packed(self, entries: Sequence[Entry]) -> list[tuple[Entry, int]]:
        """Return what is stored of messages, each with the place of the first one in it.

        What goes to another site goes in parcels. A message that may be sent again under its id
        stays alone: inside a parcel the server would not recognise it.
        """
        if self.given_id or self._by_body:
            return [(entry, place) for place, entry in enumerate(entries)]
        alone: list[tuple[Entry, int]] = []
        shared: list[tuple[Entry, int]] = []
        for place, entry in enumerate(entries):
            (shared if self.names.is_out(entry.subject) else alone).append((entry, place))
        found = lots([entry for entry, _ in shared], self.body_limit)
        parcels = [[shared[number] for number in lot] for lot in found]
        return alone + [(seal([e for e, _ in one], named=True), one[0][1]) for one in parcels]

    @property
    def _by_body(self) -> bool:
        return self.topology.modules[self.module].identity is Identity.BODY

    def _id(self, body: bytes, number: int) -> str:
        if self.given_id:
            return f"{self.given_id}-{number}" if number else self.given_id
        if self._by_body:
            return body_id(self.module, body)
        # Chosen here and not by the server, so that a repeated publish is known as the same.
        return digest("send", secrets.token_hex(16))


def checked_headers(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return a message's own headers; raises BadInput for one that may not be sent."""
    headers = dict(pairs)
    if len(headers) < len(pairs):
        raise BadInput("--header: a name is given twice")
    for name in headers:
        if name.lower().startswith(_SYSTEM):
            raise BadInput(f"--header {name[:80]!r}: names with Nats- and Sbx- are the system's")
    try:
        check_user_headers(headers)
    except BadMessage as error:
        raise BadInput(f"--header: {error}") from None
    return headers


def checked_id(given: str | None, *, numbered: bool) -> str:
    """Return the id that was given, or nothing; raises BadInput if no message can have it."""
    if given is None:
        return ""
    longest = f"{given}-999999999" if numbered else given
    if not given or not is_id(longest) or is_reserved_id(given):
        raise BadInput(
            f"--id {given[:80]!r} is not an id: at most 128 printable ASCII characters without "
            "space, `.`, `*` and `>`, and no `_` at the beginning"
        )
    return given
