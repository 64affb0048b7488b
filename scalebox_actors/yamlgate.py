"""From untrusted YAML bytes to nodes that know their place, or to plain objects.

The only importer of the yaml package. Nothing is ever constructed by it: we take its *events*,
one by one, and stop at the first that is too deep, too many, an alias, a tag or a duplicate.
Composing or constructing inside the package recurses once per level, so that 30,000 `[` end the
interpreter; its events come from a loop. Scalars stay text until `scalar_value` reads them by
the short rules of YAML 1.2, under which `no`, `22:22` and `010` are what they look like: text.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

import msgspec
import yaml

from scalebox_actors.errors import BadInput
from scalebox_actors.limits import TOPOLOGY_BYTES, TOPOLOGY_DEPTH, TOPOLOGY_NODES

# libyaml is ten times as fast and finds the same events; the fallback is for platforms whose
# yaml package came without it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_FORBIDDEN = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
    "|[\u202a-\u202e\u2066-\u2069]"
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_LINE_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEAN = {w: w.lower() == "true" for w in ("true", "True", "TRUE", "false", "False", "FALSE")}
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,18})")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,307})(\.[0-9]{1,307})?([eE][-+]?[0-9]{1,4})?")
_INT64 = 2**63
_SHOWN = 40
"""As much of a key as an error message shows."""

# What the two parsers of the yaml package say, and what we say instead: the first part that fits.
_HINTS = {
    "mapping values are not allowed": "a `:` with a blank after it may not stand here; quote it",
    "could not find expected ':'": "a key without its `:`",
    "tab character": "this line is indented with a tab; use blanks",
    "cannot start any token": "this character may not stand here; indent with blanks, or quote it",
    "unexpected end of stream": "a quote is never closed",
    "',' or": "a `,` is missing, or a bracket is never closed",
    "expected '-' indicator": "the indentation does not fit the lines above",
    "expected key": "the indentation does not fit the lines above, or a quote is open",
    "expected <block end>": "the indentation does not fit the lines above, or a quote is open",
    "node content": "a value is missing",
    "<document start>": "the document has ended above",
    "incompatible YAML document": "only YAML 1.1 and 1.2 are read",
}


class ScalarNode(msgspec.Struct, frozen=True, kw_only=True):
    """One text; `plain` if it was written without quotes, so that it may mean a number."""

    value: str
    plain: bool
    line: int
    column: int


class ListNode(msgspec.Struct, frozen=True, kw_only=True):
    """The items of a list, in order."""

    items: "tuple[ScalarNode | ListNode | MapNode, ...]"
    line: int
    column: int


class MapNode(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of a map with their values, in order; no two keys are the same text."""

    items: "tuple[tuple[ScalarNode, ScalarNode | ListNode | MapNode], ...]"
    line: int
    column: int

    def get(self, key: str) -> "ScalarNode | ListNode | MapNode | None":
        """Return the value of `key`, or None."""
        return next((value for name, value in self.items if name.value == key), None)


Node = ScalarNode | ListNode | MapNode
Plain = str | int | float | bool | None


class _Place(NamedTuple):
    source: str
    line: int
    column: int

    def refuse(self, message: str) -> NoReturn:
        raise BadInput(message, path=self.source, line=self.line, column=self.column)


def compose(
    data: bytes, source: str, *, limit: int = TOPOLOGY_BYTES, depth: int = TOPOLOGY_DEPTH
) -> Node | None:
    """Return the tree of the one YAML document in `data`; None if there is nothing in it.

    Raises BadInput with `source`, line and column (from 1) for anything the gate refuses.
    """
    if len(data) > limit:
        _Place(source, 1, 1).refuse(f"larger than {limit} bytes")
    builder = _Builder(source, depth)
    for event in _events(_text(data, source), source):
        builder.take(event)
    return builder.root


def load_plain(data: bytes, source: str, *, limit: int = TOPOLOGY_BYTES) -> object:
    """Return the document as plain objects: dict, list, str, int, float, bool, None."""
    root = compose(data, source, limit=limit)
    return None if root is None else plain(root)


def plain(node: Node) -> object:
    """Return the objects a tree stands for; keys stay text (trees are at most 16 levels deep)."""
    match node:
        case ScalarNode():
            return scalar_value(node)
        case ListNode():
            return [plain(item) for item in node.items]
        case MapNode():
            return {key.value: plain(value) for key, value in node.items}


def scalar_value(node: ScalarNode) -> Plain:
    """Read a plain scalar as null, boolean, integer or number; anything else is its text.

    What a number's text cannot be got back from stays text: `010`, `0x1F`, `1_000`, `1e999`, and
    integers beyond 64 bits.
    """
    text = node.value
    if not node.plain:
        return text
    if text in _NULL:
        return None
    if text in _BOOLEAN:
        return _BOOLEAN[text]
    if _INTEGER.fullmatch(text):
        number = int(text)
        return number if -_INT64 <= number < _INT64 else text
    if _NUMBER.fullmatch(text) and not text.lstrip("-").isdigit():
        value = float(text)
        return value if math.isfinite(value) else text
    return text


def _text(data: bytes, source: str) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        place = _place(data[: error.start].decode(), source)
        place.refuse("not UTF-8 text")
    text = text.removeprefix("\ufeff")
    if found := _FORBIDDEN.search(text):
        name = f"U+{ord(found.group()):04X}"
        _place(text[: found.start()], source).refuse(f"the character {name} is not allowed")
    return text


def _place(before: str, source: str) -> _Place:
    lines = _LINE_BREAK.split(before)
    return _Place(source, len(lines), len(lines[-1]) + 1)


def _events(text: str, source: str) -> Iterator[yaml.Event]:
    try:
        yield from yaml.parse(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = _Place(source, mark.line + 1, mark.column + 1) if mark else _Place(source, 1, 1)
        problem = error.problem or error.context or "cannot be read"
        if "maximum nesting depth" in problem:
            # libyaml reads ahead by a thousand brackets and, since PyYAML 6.0.4, has a limit of
            # its own: it may pass that before we have seen where ours was passed.
            place.refuse(f"nested more than {TOPOLOGY_DEPTH} levels deep")
        hint = next((ours for theirs, ours in _HINTS.items() if theirs in problem), problem)
        place.refuse(f"not valid YAML: {hint}")
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # The latter two: the pure parser hands any number of an escape on to `chr`.
        reason = " ".join(str(error).split())
        _Place(source, 1, 1).refuse(f"not valid YAML: {reason}")


class _Open(NamedTuple):
    """A list or a map whose end has not come; in a map, keys and values take turns."""

    is_map: bool
    place: _Place
    parts: list[Node]
    keys: set[str]


class _Builder:
    """Builds the tree from events with its own stack, and refuses what the gate keeps out."""

    def __init__(self, source: str, depth: int) -> None:
        self.root: Node | None = None
        self._source = source
        self._depth = depth
        self._nodes = 0
        self._documents = 0
        self._open: list[_Open] = []

    def take(self, event: yaml.Event) -> None:
        """Take the next event of the document."""
        mark = event.start_mark
        line, column = (mark.line, mark.column) if mark else (0, 0)
        place = _Place(self._source, line + 1, column + 1)
        match event:
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    place.refuse("a second document begins here; only one is allowed")
                if event.tags:
                    place.refuse("tags are not allowed, and so no %TAG")
            case yaml.AliasEvent():
                place.refuse(f"the alias `*{event.anchor}` is not allowed; write the value again")
            case yaml.ScalarEvent():
                self._check(event, place)
                self._add(_scalar(event, place))
            case yaml.CollectionStartEvent():
                self._check(event, place)
                self._push(isinstance(event, yaml.MappingStartEvent), place)
            case yaml.CollectionEndEvent():
                self._add(_closed(self._open.pop()))
            case yaml.StreamStartEvent() | yaml.StreamEndEvent() | yaml.DocumentEndEvent():
                pass
            case _:
                # Two copies of the package in one process know other classes: fail closed.
                place.refuse(f"the YAML parser reports an unknown {type(event).__name__}")

    def _check(self, event: yaml.NodeEvent, place: _Place) -> None:
        self._nodes += 1
        if self._nodes > TOPOLOGY_NODES:
            place.refuse(f"more than {TOPOLOGY_NODES} values")
        if event.anchor is not None:
            place.refuse(f"the anchor `&{event.anchor}` is not allowed; write the value again")
        if getattr(event, "tag", None) is not None:
            place.refuse("tags are not allowed; quote text that begins with `!`")

    def _push(self, is_map: bool, place: _Place) -> None:
        if len(self._open) >= self._depth:
            place.refuse(f"nested more than {self._depth} levels deep")
        if self._expects_key():
            place.refuse("a key must be text, not a list or a map")
        self._open.append(_Open(is_map, place, [], set()))

    def _expects_key(self) -> bool:
        return bool(self._open) and self._open[-1].is_map and len(self._open[-1].parts) % 2 == 0

    def _add(self, node: Node) -> None:
        if not self._open:
            self.root = node
            return
        if isinstance(node, ScalarNode) and self._expects_key():
            place = _Place(self._source, node.line, node.column)
            if node.plain and node.value == "<<":
                place.refuse("the merge key `<<` is not allowed; write the values again")
            if node.value in self._open[-1].keys:
                place.refuse(f"the key {_shown(node.value)} is given twice")
            self._open[-1].keys.add(node.value)
        self._open[-1].parts.append(node)


def _scalar(event: yaml.ScalarEvent, place: _Place) -> ScalarNode:
    if _SURROGATE.search(event.value):
        place.refuse("half a surrogate pair is not a character")
    is_plain = not event.style  # one parser says None, the other the empty text
    return ScalarNode(value=event.value, plain=is_plain, line=place.line, column=place.column)


def _closed(part: _Open) -> Node:
    line, column = part.place.line, part.place.column
    if not part.is_map:
        return ListNode(items=tuple(part.parts), line=line, column=column)
    keys = (key for key in part.parts[::2] if isinstance(key, ScalarNode))
    pairs = tuple(zip(keys, part.parts[1::2], strict=True))
    return MapNode(items=pairs, line=line, column=column)


def _shown(key: str) -> str:
    text = key if key.isprintable() else ascii(key)[1:-1]
    return f"`{text if len(text) <= _SHOWN else text[:_SHOWN] + '…'}`"
