"""From the nodes of a YAML file to the typed topology, with every wrong value at its place.

The field types of `model.py` say what a value must be; this is their reading. All that is wrong
is collected, and what is right is kept for the checks, so that a person mends a file in one go.
"""

import re
import types
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from functools import cache
from typing import NamedTuple, ParamSpec, TypeVar, Union, cast, get_args, get_origin

import msgspec

from scalebox_actors.limits import FAULTS_SHOWN, FUNCTION_SLOTS, SITES, TOPOLOGY_MODULES
from scalebox_actors.topology.findings import Path
from scalebox_actors.topology.hints import FOREIGN_FIELDS, as_list_hint, hint_for, kind_of, made_of
from scalebox_actors.topology.model import Duration, Launch, Module, Retry, Site, Size, Topology
from scalebox_actors.topology.parameters import Filled
from scalebox_actors.topology.quantity import (
    DURATION_FORM,
    SIZE_FORM,
    parse_duration,
    parse_size,
)
from scalebox_actors.topology.wording import closest, listed, shown, suggestion
from scalebox_actors.yamlgate import ListNode, MapNode, Node, ScalarNode, scalar_value

TOP = ("topology", "label", "modules", "defaults", "sites", "remember", "max_bytes", "hops")
MODULE = (*(f for f in Module.__struct_fields__ if f != "name"), "site")
SITE = tuple(f for f in Site.__struct_fields__ if f != "name")
CODE = re.compile(r"\*|[0-9]{1,9}")
RETRY_FORM = "`{75: 3, '*': 1}` or `['75:3', '*']`"
_RULE = re.compile(r"\s*(\*|[0-9]{1,9})\s*(?::\s*([0-9]{1,9})\s*)?")


class Problem(NamedTuple):
    """Something wrong at a place of a file."""

    line: int
    column: int
    message: str


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What could be read of a file, and what is wrong with the rest."""

    topology: Topology | None
    """As if what is wrong had been left out; None if so much is wrong that nothing was made."""
    problems: list[Problem]
    unread: frozenset[Path]
    """Where a value was meant that nobody knows: what rests on one of these may not be judged."""


class _Wrong:
    """Stands for a value that could not be read; the problem is noted already."""


class _EnoughError(Exception):
    """So much is wrong that more would help nobody; looking for suggestions takes time."""


P = ParamSpec("P")
T = TypeVar("T")

_WRONG = _Wrong()
_Pairs = dict[str, object]


def read(filled: Filled) -> Reading:
    """Return the topology that a tree (defaults merged in) stands for, and all that is wrong."""
    reader = _Reader(filled.places)
    try:
        topology = reader.topology(filled.root)
    except _EnoughError:
        topology = None
    unread = frozenset(reader.unread)
    return Reading(topology=topology, problems=reader.problems, unread=unread)


class _Reader:
    def __init__(self, substituted: frozenset[tuple[int, int]]) -> None:
        self.problems: list[Problem] = []
        self.unread: set[Path] = set()
        self._substituted = substituted
        self._at: list[str | int] = []

    def topology(self, root: Node) -> Topology | None:
        """Read the whole file."""
        if not isinstance(root, MapNode):
            self._note(root, f"a topology is a map of {listed(TOP)}, but this is {kind_of(root)}")
            return None
        self._known(root, TOP)
        defaults = root.get("defaults")
        if isinstance(defaults, MapNode):
            self._known(defaults, MODULE)  # said even if no module is there to have them
        elif defaults is not None:
            what = f"`defaults` must be a map of module fields, but is {kind_of(defaults)}"
            self._note(defaults, what, "defaults")
        fields = _types(Topology, without=("name", "modules", "sites"))
        pairs = self._pairs(root, {**fields, "topology": str})
        sites = root.get("sites")
        if sites is not None:
            pairs["sites"] = self._below("sites", self._sites, sites)
        self._needs(root, "topology", "`topology` is missing: the name of this topology")
        self._needs(root, "modules", "`modules` is missing: a map of names to modules")
        modules = self._below("modules", self._modules, root.get("modules"))
        pairs["modules"] = {} if modules is _WRONG else modules
        return Topology(name=str(pairs.pop("topology", "")), **_right(pairs))  # type: ignore[arg-type]  # read by type

    def _needs(self, node: MapNode, field: str, message: str) -> None:
        """Note that a field is missing, unless it is there under a name that was not understood."""
        if node.get(field) is None and (*self._at, field) not in self.unread:
            self._note(node, message, field)

    def _modules(self, node: Node | None) -> object:
        if node is None:
            return _WRONG
        if not isinstance(node, MapNode):
            what = f"`modules` must be a map of names to modules, but is {kind_of(node)}"
            return self._note(node, what)
        if len(node.items) > TOPOLOGY_MODULES:
            message = f"{len(node.items)} modules; at most {TOPOLOGY_MODULES} are allowed"
            return self._note(node, message)
        return {
            key.value: self._below(key.value, self._module, key, value) for key, value in node.items
        }

    def _sites(self, node: Node) -> object:
        if not isinstance(node, MapNode):
            return self._note(
                node, f"`sites` must be a map of names to sites, but is {kind_of(node)}"
            )
        if not node.items:
            return self._note(node, "`sites` is empty; leave it out where there is only one")
        if len(node.items) > SITES:
            return self._note(node, f"{len(node.items)} sites; at most {SITES} are allowed")
        return {
            key.value: self._below(key.value, self._site, key, value) for key, value in node.items
        }

    def _site(self, key: ScalarNode, node: Node) -> Site:
        if isinstance(node, ScalarNode) and scalar_value(node) is None:
            return Site(name=key.value)  # a site of which there is nothing to say
        if not isinstance(node, MapNode):
            self._note(node, f"site {shown(key.value)} must be a map, but is {kind_of(node)}")
            return Site(name=key.value)
        self._known(node, SITE)
        pairs = self._pairs(node, _types(Site, without=("name",)))
        return Site(name=key.value, **_right(pairs))  # type: ignore[arg-type]  # read by their types

    def _module(self, key: ScalarNode, node: Node) -> Module:
        if not isinstance(node, MapNode):
            what = f"module {shown(key.value)} must be a map of fields such as `image`"
            self._note(node, f"{what}, but is {kind_of(node)}")
            return Module(name=key.value)
        self._known(node, MODULE)
        if ("defaults",) in self.unread:
            self.unread.update((*self._at, f) for f in MODULE if node.get(f) is None)
        pairs = _right(self._pairs(node, {**_types(Module, without=("name",)), "site": str}))
        if node.get("site") is not None:  # a single one was made a list before
            self.unread.add((*self._at, "sites"))
        if "site" in pairs:
            self._note(node.get("site") or node, "give either `site` or `sites`", "sites")
            del pairs["site"]
        if pairs.get("command") == ():
            empty = "`command` is empty; leave it out to run what the image runs"
            self._note(node.get("command") or node, empty, "command")
        if pairs.get("function"):
            pairs = {"launch": Launch.FUNCTION, **pairs}
        if pairs.get("launch") is Launch.FUNCTION:
            pairs = {"slots": FUNCTION_SLOTS, **pairs}
        return Module(name=key.value, **pairs)  # type: ignore[arg-type]  # read by their types

    def _below(self, step: str | int, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Read what stands under a key, so that the path of what is wrong there is known."""
        self._at.append(step)
        value = read(*args, **kwargs)
        self._at.pop()
        return value

    def _known(self, node: MapNode, known: Iterable[str]) -> None:
        known = tuple(known)
        for key, _ in node.items:
            if key.value in known:
                continue
            foreign = FOREIGN_FIELDS.get(key.value, "")
            meant = foreign if foreign in known else closest(key.value, known)
            hint = f" (did you mean {shown(meant)}?)" if meant else f"; there are {listed(known)}"
            self._note(key, f"unknown field {shown(key.value)}{hint}", meant or key.value)

    def _pairs(self, node: MapNode, fields: Mapping[str, object]) -> _Pairs:
        return {
            key.value: self._below(
                key.value, self._value, value, fields[key.value], f"`{key.value}`"
            )
            for key, value in node.items
            if key.value in fields
        }

    def _value(self, node: Node, kind: object, what: str) -> object:
        kinds = [k for k in _alternatives(kind) if k is not type(None)]
        if len(kinds) > 1:
            return self._number_or_text(node, what)
        [kind] = kinds
        if kind in _SCALARS:
            return self._scalar(node, kind, what)
        if kind is Retry:
            return self._retry(node)
        if isinstance(kind, type):
            is_word = issubclass(kind, StrEnum)
            return self._word(node, kind, what) if is_word else self._struct(node, kind, what)
        is_list = get_origin(kind) is tuple
        return self._texts(node, what) if is_list else self._map(node, get_args(kind)[1], what)

    def _scalar(self, node: Node, kind: object, what: str) -> object:
        form, read = _SCALARS[kind]
        if not isinstance(node, ScalarNode):
            return self._note(node, f"{what} must be {form}, but is {kind_of(node)}")
        if kind is str and (node.line, node.column) in self._substituted:
            return node.value  # whoever wrote `image: ${IMAGE}` means the text, whatever it is
        value = scalar_value(node)
        if value is None:
            return self._note(node, f"{what} is empty; give {form} or leave it out")
        result = read(value)
        if result is None:
            hint = hint_for(value, kind, node)
            return self._note(node, f"{what} must be {form}, but {made_of(node)}{hint}")
        return result

    def _number_or_text(self, node: Node, what: str) -> object:
        is_number = isinstance(node, ScalarNode) and type(scalar_value(node)) is int
        return self._scalar(node, int if is_number else str, what)

    def _word(self, node: Node, kind: type[StrEnum], what: str) -> object:
        words = [word.value for word in kind]
        form = " or ".join(f"`{word}`" for word in words)
        if not isinstance(node, ScalarNode):
            return self._note(node, f"{what} must be {form}, but is {kind_of(node)}")
        if node.value in words:
            return kind(node.value)
        if kind is Launch and node.value == "warm":
            hint = "; for containers started ahead write `warm: 2`, say"
            return self._note(node, f"{what} must be {form}, but {made_of(node)}{hint}")
        hint = suggestion(node.value, words) or suggestion(node.value.upper(), words)
        return self._note(node, f"{what} must be {form}, but {made_of(node)}{hint}")

    def _struct(self, node: Node, kind: type[msgspec.Struct], what: str) -> object:
        fields = _types(kind)
        if not isinstance(node, MapNode):
            form = f"a map of {listed(fields)}"
            return self._note(node, f"{what} must be {form}, but is {kind_of(node)}")
        self._known(node, fields)
        pairs = _right(self._pairs(node, fields))
        required = [f.name for f in msgspec.structs.fields(kind) if f.required]
        for field in required:
            self._needs(node, field, f"{what} needs `{field}`")
        return kind(**pairs) if all(f in pairs for f in required) else _WRONG

    def _texts(self, node: Node, what: str) -> object:
        if not isinstance(node, ListNode):
            hint = as_list_hint(node, shell=what in ("`command`", "`args`"))
            return self._note(node, f"{what} must be a list of texts, but is {kind_of(node)}{hint}")
        items = [
            self._below(index, self._scalar, item, str, f"item {index + 1} of {what}")
            for index, item in enumerate(node.items)
        ]
        return tuple("" if item is _WRONG else item for item in items)

    def _map(self, node: Node, kind: object, what: str) -> object:
        if not isinstance(node, MapNode):
            form = "texts" if kind is str else "whole numbers"
            return self._note(node, f"{what} must be a map of {form}, but is {kind_of(node)}")
        return _right(
            {
                k.value: self._below(k.value, self._scalar, v, kind, f"{shown(k.value)} in {what}")
                for k, v in node.items
            }
        )

    def _retry(self, node: Node) -> Retry:
        match node:
            case MapNode():
                pairs = self._retry_map(node)
            case ListNode():
                pairs = {"rules": self._retry_list(node.items)}
            case ScalarNode():
                pairs = {"rules": self._retry_text(node)}
        return Retry(**pairs)  # type: ignore[arg-type]  # read by their types

    def _retry_map(self, node: MapNode) -> _Pairs:
        fields = _types(Retry, without=("rules",))
        codes = [(k, v) for k, v in node.items if CODE.fullmatch(k.value)]
        named = tuple(item for item in node.items if item not in codes)
        rest = MapNode(items=named, line=node.line, column=node.column)
        self._known(rest, fields)
        rules = {
            k.value: self._below(k.value, self._scalar, v, int, f"retries of {shown(k.value)}")
            for k, v in codes
        }
        return {"rules": _right(rules), **_right(self._pairs(rest, fields))}

    def _retry_list(self, items: Iterable[Node]) -> dict[str, int]:
        rules: dict[str, int] = {}
        for item in items:
            found = _RULE.fullmatch(item.value) if isinstance(item, ScalarNode) else None
            if found is None:
                what = shown(item.value) if isinstance(item, ScalarNode) else kind_of(item)
                self._note(item, f"`retry`: {what} is no rule; write {RETRY_FORM}")
            elif found[1] in rules:
                self._note(item, f"`retry`: {found[1]} is given twice")
            else:
                rules[found[1]] = int(found[2] or 1)
        return rules

    def _retry_text(self, node: ScalarNode) -> dict[str, int]:
        # Scalebox writes the list as one string: "['92:3','*:2']".
        text = node.value.strip()
        inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
        items = [part.strip().strip("'\"") for part in inner.split(",")] if inner.strip() else []
        if not items or (node.plain and scalar_value(node) is not node.value and text != "*"):
            self._note(node, f"`retry` must be {RETRY_FORM}, but {made_of(node)}")
            return {}
        place = {"plain": False, "line": node.line, "column": node.column}
        return self._retry_list(msgspec.convert({"value": i, **place}, ScalarNode) for i in items)

    def _note(self, node: Node, message: str, *steps: str) -> object:
        """Note what is wrong; `steps` lead from where we read to the value that is not known."""
        self.problems.append(Problem(node.line, node.column, message))
        self.unread.add((*self._at, *steps))
        if len(self.problems) == FAULTS_SHOWN:
            raise _EnoughError
        return _WRONG


def _right(pairs: Mapping[str, object]) -> _Pairs:
    return {key: value for key, value in pairs.items() if value is not _WRONG}


@cache
def _types(kind: type[msgspec.Struct], without: tuple[str, ...] = ()) -> dict[str, object]:
    return {f.name: f.type for f in msgspec.structs.fields(kind) if f.name not in without}


def _alternatives(kind: object) -> tuple[object, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _text(value: object) -> object:
    return value if isinstance(value, str) else None


def _whole(value: object) -> object:
    return value if type(value) is int else None


def _number(value: object) -> object:
    return float(cast("float", value)) if type(value) in (int, float) else None


def _boolean(value: object) -> object:
    return value if isinstance(value, bool) else None


def _duration(value: object) -> object:
    return None if isinstance(value, bool) else parse_duration(cast("str | float", value))


def _size(value: object) -> object:
    return parse_size(value) if isinstance(value, str) or type(value) is int else None


_SCALARS: dict[object, tuple[str, Callable[[object], object]]] = {
    str: ("text", _text),
    int: ("a whole number", _whole),
    float: ("a number", _number),
    bool: ("`true` or `false`", _boolean),
    Duration: (DURATION_FORM, _duration),
    Size: (SIZE_FORM, _size),
}
