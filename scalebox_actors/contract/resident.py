"""The lines between a node and a program that stays: one JSON object a line, both ways. Pure.

`message_line` and `ping_line` make what the program reads, `read_line` understands what it writes.
Like everything a program says, a line is believed only in what it may say of its own messages.
"""

import base64
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from scalebox_actors.contract.attributes import MEASURED
from scalebox_actors.contract.sinks import SinkItem, check_count, emission_of
from scalebox_actors.contract.texts import one_line
from scalebox_actors.contract.values import Emission
from scalebox_actors.errors import UNREADABLE
from scalebox_actors.limits import EXTRA_ATTRIBUTE_BYTES, RESIDENT_HEARTBEAT, RESIDENT_IN_FLIGHT

_BYTE = 255
_encode = msgspec.json.Encoder().encode


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a program says of one message; also the form of every other line, by its first key."""

    id: str | None = None
    exit: int = 0
    sink: Sequence[SinkItem] = ()
    detail: str = ""
    log: str = ""
    extras: msgspec.Raw = msgspec.Raw()
    beat: str | None = None
    pong: int | None = None
    ready: bool | None = None
    in_flight: int = 1
    heartbeat: float = 0.0
    name: str = ""


class Ready(msgspec.Struct, frozen=True):
    """The program says that it can begin, and how it wants to be treated."""

    in_flight: int = 1
    heartbeat: float = 0.0
    name: str = ""


class Beat(msgspec.Struct, frozen=True):
    """A message is still being worked on."""

    id: str


class Pong(msgspec.Struct, frozen=True):
    """The answer to a ping."""

    number: int


class Unusable(msgspec.Struct, frozen=True):
    """A line that cannot be understood; `id` names the message that it is about, if it says so."""

    why: str
    id: str | None = None


Line = Answer | Ready | Beat | Pong | Unusable


class _Named(msgspec.Struct, frozen=True):
    id: str | None = None


_strict = msgspec.json.Decoder(Answer).decode
_named = msgspec.json.Decoder(_Named).decode
_any = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_KNOWN = frozenset(Answer.__struct_fields__)


def message_line(
    message_id: str,
    attempt: int,
    body: bytes | None,
    headers: Mapping[str, str],
    work: str = "",
) -> bytes:
    """Return the line by which a program is given a message; it begins with the id.

    A body that is not UTF-8 comes as `body_base64`. None: it lies in the file `body` in `work`.
    """
    line: dict[str, object] = {"id": message_id, "attempt": attempt}
    if work:
        line["work"] = work
    line["headers"] = headers
    if body is not None:
        try:
            line["body"] = body.decode()
        except UnicodeDecodeError:
            line["body_base64"] = base64.b64encode(body).decode()
    return _encode(line) + b"\n"


def ping_line(number: int) -> bytes:
    """Return the line that asks a program whether it still listens."""
    return b'{"ping":%d}\n' % number


def read_line(line: bytes, unknown: Callable[[str], None]) -> Line:
    """Return what a line of a program says; `unknown` is told of keys that mean nothing to us."""
    try:
        said = _strict(line)
    except UNREADABLE as error:
        said_anyway = _without_unknown(line, unknown)
        if said_anyway is None:
            return _unusable(line, error)
        said = said_anyway
    if said.id is not None:
        return said if 0 <= said.exit <= _BYTE else Unusable(f"exit code {said.exit}", said.id)
    if said.beat is not None:
        return Beat(said.beat)
    if said.pong is not None:
        return Pong(said.pong)
    if said.ready is not None:
        return _ready(said)
    return Unusable("none of the keys `id`, `beat`, `pong` and `ready`")


def emissions(answer: Answer, modules: Collection[str]) -> tuple[Emission, ...]:
    """Return the messages that an answer asks for; raises BadOutput that says which is wrong."""
    if not answer.sink:
        return ()
    check_count(len(answer.sink), "sink")
    return tuple(
        emission_of(item, modules, f"sink {number}")
        for number, item in enumerate(answer.sink, start=1)
    )


def extras(answer: Answer) -> dict[str, object]:
    """Return the attributes of an answer; what cannot be kept is left out, with a warning."""
    raw = bytes(answer.extras)
    if not raw or raw == b"null":
        return {}
    if len(raw) > EXTRA_ATTRIBUTE_BYTES:
        return {"warnings": [f"extras: larger than {EXTRA_ATTRIBUTE_BYTES} bytes, left out"]}
    try:
        given = msgspec.json.decode(raw, type=dict[str, object])
    except UNREADABLE as error:
        return {"warnings": [f"extras: {one_line(error)}"]}
    kept = {key: value for key, value in given.items() if key not in MEASURED}
    declared = {key: value for key, value in given.items() if key in MEASURED}
    return kept | {"declared": declared} if declared else kept


def _ready(said: Answer) -> Ready | Unusable:
    if not 1 <= said.in_flight <= RESIDENT_IN_FLIGHT:
        return Unusable(f"in_flight {said.in_flight} is not from 1 to {RESIDENT_IN_FLIGHT}")
    if said.heartbeat and not said.heartbeat >= RESIDENT_HEARTBEAT:  # NaN neither
        return Unusable(f"heartbeat {said.heartbeat:g} is below {RESIDENT_HEARTBEAT:g} seconds")
    return Ready(said.in_flight, said.heartbeat, said.name[:80])


def _without_unknown(line: bytes, unknown: Callable[[str], None]) -> Answer | None:
    """Read a line that has keys that we do not know; None if it is wrong for another reason."""
    try:
        values = _any(line)
        strange = values.keys() - _KNOWN
        if not strange:
            return None
        said = _strict(_encode({key: values[key] for key in values.keys() & _KNOWN}))
    except UNREADABLE:
        return None
    for key in sorted(strange):
        unknown(key)
    return said


def _unusable(line: bytes, error: Exception) -> Unusable:
    try:
        return Unusable(one_line(error), _named(line).id)
    except UNREADABLE:
        return Unusable(one_line(error))
