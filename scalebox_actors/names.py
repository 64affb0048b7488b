"""The grammar of names, and every subject, stream and consumer with its literal.

The site is a token of every subject and a part of every stream name: without it, two sites that
are joined by a leaf link take each other's messages and ack each other's tasks.
"""

import hashlib
import re
from functools import lru_cache

import msgspec

from scalebox_actors.errors import BadInput
from scalebox_actors.limits import ID_LENGTH, NAME_LENGTH

NAME_GRAMMAR = f"[a-z][a-z0-9_-]{{0,{NAME_LENGTH - 1}}}"
_NAME = re.compile(NAME_GRAMMAR)
_ID = re.compile(rf"[!-)+\-/-=?-~]{{1,{ID_LENGTH}}}")  # printable ASCII but `*`, `.`, `>`
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_COUNT = re.compile(r"x([1-9][0-9]{0,2})")
_OUT_TOKENS = 6
_WARM = "warm-"
_OWN_ID = re.compile(r"_?[a-z2-7]{26}")


def is_name(text: str) -> bool:
    """Whether `text` may name a topology, a module, a site or a node."""
    return _NAME.fullmatch(text) is not None


def check_name(kind: str, text: str) -> str:
    """Return `text` if it is a name, else raise BadInput that says what a name is."""
    if is_name(text):
        return text
    raise BadInput(
        f"{kind} {text!r} is not a name: lower-case letters, digits, `-` and `_`, "
        f"a letter first, at most {NAME_LENGTH}"
    )


def is_id(text: str) -> bool:
    """Whether `text` may be a message id: printable ASCII and one token of a subject."""
    return _ID.fullmatch(text) is not None


def is_reserved_id(text: str) -> bool:
    """Whether `text` has the form of the ids that we derive for messages without one."""
    return text.startswith("_")


def digest(*parts: object) -> str:
    """Return 26 characters of base32 that depend on every part and on where parts begin."""
    joined = "\0".join(str(part) for part in parts)
    raw = hashlib.sha256(joined.encode("utf-8", "surrogateescape")).digest()
    # Base32 of the first 130 bits, ten bits at a time: a sixth of the standard library's time,
    # and every output of every task gets its id here.
    bits = int.from_bytes(raw[:17], "big") >> 6
    return "".join([_PAIRS[(bits >> shift) & 1023] for shift in range(120, -1, -10)])


def is_digest(text: str) -> bool:
    """Whether `text` has the form of what `digest` returns."""
    return len(text) == 26 and _OWN_ID.fullmatch(text) is not None  # noqa: PLR2004 - its length


def derived_id(stream_created: str, sequence: int) -> str:
    """Name a message that came without an id by its place in the stream."""
    return "_" + digest(stream_created, sequence)


def child_id(parent_module: str, parent_id: str, sink: str, index: int) -> str:
    """Name the output `index` of a task; every run of the task gives the same names."""
    return digest(parent_module, parent_id, sink, index)


def body_id(module: str, body: bytes) -> str:
    """Name a message by its body, for modules with `identity: body`."""
    return digest(module, hashlib.sha256(body).hexdigest())


@lru_cache(maxsize=1024)
def run_name(topology: str, module: str, task_id: str) -> str:
    """Name the one container that a task may have on a host: `sbx-primes.count.<id>`."""
    return f"sbx-{topology}.{module}.{_token(task_id)}"


def parcel_of(subject: str, count: int) -> str:
    """Return the subject of a parcel of `count` messages that one by one would be on `subject`."""
    return f"{subject}.x{count}"


class BoundFor(msgspec.Struct, frozen=True):
    """What the subject of a stored message that waits to be carried says of it."""

    site: str
    """Where it goes."""
    module: str
    count: int
    """How many messages it is."""
    parcel: bool


def bound_for(subject: str) -> BoundFor:
    """Read a subject of `out`; a parcel whose number cannot be read counts as one message."""
    tokens = subject.split(".")
    parcel = len(tokens) > _OUT_TOKENS
    found = _COUNT.fullmatch(tokens[-1]) if parcel else None
    return BoundFor(tokens[4], tokens[5], int(found[1]) if found else 1, parcel)


def lasting_name(topology: str, module: str, role: str, slot: int, token: str) -> str:
    """Name a container that stays: `sbx-primes.count.resident-0-<token>`."""
    return f"sbx-{topology}.{module}.{role}-{slot}-{token}"


def warm_name(topology: str, module: str, unique: str) -> str:
    """Name a container that waits for a message: `sbx-primes.count.warm-0a1b2c`."""
    return f"sbx-{topology}.{module}.{_WARM}{unique}"


def waits(name: str) -> bool:
    """Whether a container of that name still waits for its message: no task's name is like it."""
    return name.rpartition(".")[2].startswith(_WARM)


class Names(msgspec.Struct, frozen=True):
    """The subjects, streams and consumers of one topology at one site."""

    topology: str
    site: str = "local"

    @property
    def stream(self) -> str:
        """`SBX_<T>_AT_<S>`: everything that must not be lost."""
        return f"SBX_{self.topology}_AT_{self.site}"

    @property
    def trace_stream(self) -> str:
        """`SBX_<T>_AT_<S>_TRACE`: run records, which may be forgotten."""
        return f"{self.stream}_TRACE"

    @property
    def bucket(self) -> str:
        """`SBX_<T>_AT_<S>`: the key-value bucket with the state of modules."""
        return self.stream

    @property
    def nodes_bucket(self) -> str:
        """`SBX_NODES_AT_<S>`: the key-value bucket in which nodes are registered."""
        return f"SBX_NODES_AT_{self.site}"

    @property
    def prefix(self) -> str:
        """`sbx.T.S`."""
        return f"sbx.{self.topology}.{self.site}"

    def consumer(self, module: str) -> str:
        """`run_<M>`: the durable consumer that hands out a module's tasks."""
        return f"run_{module}"

    def task(self, module: str) -> str:
        """`sbx.T.S.task.M`: waiting for any slot of M."""
        return f"sbx.{self.topology}.{self.site}.task.{module}"

    def out(self, site: str, module: str) -> str:
        """`sbx.T.S.out.D.M`: waits at S to be carried to module M at site D."""
        return f"sbx.{self.topology}.{self.site}.out.{site}.{module}"

    def is_out(self, subject: str) -> bool:
        """Whether what is stored on `subject` waits here to be carried to another site."""
        return subject.startswith(f"sbx.{self.topology}.{self.site}.out.")

    def parcel(self, site: str, module: str) -> str:
        """`sbx.T.S.out.D.M.*`: parcels of them, `.x<N>` with as many messages in each."""
        return f"{self.out(site, module)}.*"

    def courier(self, site: str) -> str:
        """`to_<D>`: the durable consumer that all couriers of this site share."""
        return f"to_{site}"

    def at(self, site: str) -> "Names":
        """Return the names of the same topology at another site."""
        return Names(self.topology, site)

    def done(self, module: str, task_id: str) -> str:
        """`sbx.T.S.done.M.<id>`: the done-record."""
        return f"sbx.{self.topology}.{self.site}.done.{module}.{task_id}"

    def dead(self, module: str, task_id: str) -> str:
        """`sbx.T.S.dead.M.<id>`: a buried task."""
        return f"sbx.{self.topology}.{self.site}.dead.{module}.{task_id}"

    def group(self, module: str, group: str) -> str:
        """`sbx.T.S.join.M.<group>`: the count of an open group of `gather:`."""
        return f"sbx.{self.topology}.{self.site}.join.{module}.{group}"

    def member(self, module: str, group: str, task_id: str) -> str:
        """`sbx.T.S.join.M.<group>.<id>`: one member of an open group."""
        return f"{self.group(module, group)}.{task_id}"

    def result(self, module: str) -> str:
        """`sbx.T.S.result.M`: what a module without sinks emits."""
        return f"sbx.{self.topology}.{self.site}.result.{module}"

    def trace(self, node: str) -> str:
        """`sbx.T.S.trace.N`: run records of a node, several to a message, one JSON line each."""
        return f"sbx.{self.topology}.{self.site}.trace.{node}"

    def ctl(self, verb: str) -> str:
        """`sbx.T.S.ctl.<verb>`: requests to the nodes of a site, never stored."""
        return f"sbx.{self.topology}.{self.site}.ctl.{verb}"

    def state(self, key: str) -> str:
        """`$KV.SBX_<T>_AT_<S>.<key>`: a key of the state bucket."""
        return f"$KV.{self.bucket}.{key}"


def attempts_key(module: str, task_id: str) -> str:
    """`try.M.<id>`: what went wrong with a task so far; ids are hashed to fit a key's grammar."""
    return f"try.{module}.{_token(task_id)}"


def _token(task_id: str) -> str:
    """Return what stands for an id where letters are few: no id has the form of another's."""
    return task_id if _OWN_ID.fullmatch(task_id) else f"x{digest(task_id)}"
