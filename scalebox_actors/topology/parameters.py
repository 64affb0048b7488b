"""Parameters: `${NAME}` and `${NAME:-default}` in the values of a topology, `$$` for one `$`.

They are put in after the file was parsed and only into scalar values, so a value never changes
the structure, adds a key or becomes a tag: it is text, and at most read as a number where the
field wants one.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NoReturn

import msgspec

from scalebox_actors.errors import BadInput
from scalebox_actors.limits import TOPOLOGY_BYTES
from scalebox_actors.topology.wording import shown
from scalebox_actors.yamlgate import ListNode, MapNode, Node, ScalarNode

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_USE = re.compile(
    r"\$(?:(?P<dollar>\$)|\{(?P<name>[A-Za-z_][A-Za-z0-9_]{0,127})(?::-(?P<default>[^}]*))?\}"
    r"|(?P<bad>\{))"
)
_PLACES = 3
_NAMES = 10

Place = tuple[int, int]


class Filled(msgspec.Struct, frozen=True, kw_only=True):
    """A tree without parameters, and the places of the plain scalars that had some."""

    root: Node
    places: frozenset[Place]


def parameters(
    sets: Sequence[str], env_files: Sequence[tuple[str, bytes]], environ: Mapping[str, str]
) -> dict[str, str]:
    """Merge the sources of parameters: `--set` wins over `--env-file` over the environment.

    Within one kind the later wins; an env-file is given as its path and its bytes.
    """
    merged = dict(environ)
    for path, data in env_files:
        merged |= _env_file(path, data)
    for text in sets:
        name, equals, value = text.partition("=")
        if not equals or not _NAME.fullmatch(name):
            raise BadInput(f"--set {shown(text)} is not NAME=VALUE")
        merged[name] = value
    return merged


def _env_file(path: str, data: bytes) -> dict[str, str]:
    try:
        lines = data.decode().removeprefix("\ufeff").split("\n")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise BadInput("not UTF-8 text", path=path, line=line, column=1) from None
    found: dict[str, str] = {}
    for number, raw in enumerate(lines, start=1):
        text = raw.strip()
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.removeprefix("export ").partition("=")
        if not equals or not _NAME.fullmatch(name.strip()) or "\0" in value:
            raise BadInput(f"{shown(text)} is not NAME=VALUE", path=path, line=number, column=1)
        found[name.strip()] = _unquoted(value.strip())
    return found


def _unquoted(value: str) -> str:
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if quoted else value


def fill(root: Node, params: Mapping[str, str], path: str) -> Filled:
    """Put the parameters into every scalar value; keys stay as they are.

    Raises BadInput for a `${` that is no parameter, and one for all names without a value.
    """
    filler = _Filler(params, path)
    filled = filler.node(root)
    if filler.missing:
        line, column = next(iter(filler.missing.values()))[0]
        raise BadInput(_missing(filler.missing), path=path, line=line, column=column)
    return Filled(root=filled, places=frozenset(filler.places))


def _missing(missing: Mapping[str, Sequence[Place]]) -> str:
    listed = []
    for name, places in list(missing.items())[:_NAMES]:
        some = ", ".join(f"{line}:{column}" for line, column in places[:_PLACES])
        listed.append(f"`{name}` ({some}{', …' if len(places) > _PLACES else ''})")
    word = "parameter" if len(missing) == 1 else "parameters"
    more = f" and {len(missing) - _NAMES} more" if len(missing) > _NAMES else ""
    return f"no value for {word} {', '.join(listed)}{more}; give one with --set NAME=VALUE"


def _is_text(value: str) -> bool:
    # Bytes of the environment that are not UTF-8 come as lone surrogates.
    return "\0" not in value and not any("\ud800" <= c <= "\udfff" for c in value)


class _Filler:
    def __init__(self, params: Mapping[str, str], path: str) -> None:
        self.missing: dict[str, list[Place]] = {}
        self.places: set[Place] = set()
        self._params = params
        self._path = path
        self._room = TOPOLOGY_BYTES

    def node(self, node: Node) -> Node:
        """Return the tree below `node` with its parameters filled in."""
        match node:
            case ScalarNode():
                return self._scalar(node) if "$" in node.value else node
            case ListNode():
                items = tuple(self.node(item) for item in node.items)
                return ListNode(items=items, line=node.line, column=node.column)
            case MapNode():
                pairs = tuple((key, self.node(value)) for key, value in node.items)
                return MapNode(items=pairs, line=node.line, column=node.column)

    def _scalar(self, node: ScalarNode) -> ScalarNode:
        value = _USE.sub(lambda found: self._use(found, node), node.value)
        if value != node.value and node.plain:
            self.places.add((node.line, node.column))
        return ScalarNode(value=value, plain=node.plain, line=node.line, column=node.column)

    def _use(self, found: re.Match[str], node: ScalarNode) -> str:
        if found["dollar"]:
            return "$"
        if found["bad"]:
            self._refuse(
                node,
                f"{shown(node.value)}: `${{` must begin a parameter, `${{NAME}}` or "
                "`${NAME:-default}`; for a `$` itself write `$$`",
            )
        name, default = found["name"], found["default"]
        value = self._params.get(name)
        if default is not None and not value:  # as in a shell: an empty value counts as none
            return str(default)
        if value is None:
            self.missing.setdefault(name, []).append((node.line, node.column))
            return ""
        # A few bytes of YAML could ask for a large value a thousand times.
        self._room -= len(value)
        if self._room < 0:
            self._refuse(node, f"with its parameters larger than {TOPOLOGY_BYTES} bytes")
        if not _is_text(value):
            self._refuse(node, f"the value of parameter `{name}` is not UTF-8 text")
        return value

    def _refuse(self, node: ScalarNode, message: str) -> NoReturn:
        raise BadInput(message, path=self._path, line=node.line, column=node.column)
