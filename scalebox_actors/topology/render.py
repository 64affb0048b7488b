"""A topology back to a file: `load(render(t)) == t`, with the same words a person would use.

Also the form in which a topology is kept in the state bucket, so that any node of any version
reads it through the same gate and checks as a person's file.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum

import msgspec

from scalebox_actors.limits import FUNCTION_SLOTS
from scalebox_actors.topology.model import Duration, Launch, Module, Retry, Site, Size, Topology
from scalebox_actors.topology.quantity import show_duration, show_size

_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*")
_WORDS = frozenset(("null", "true", "false"))
_NOT_SHOWN = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_BMP = 0xFFFF


def render(topology: Topology) -> bytes:
    """Return the YAML of a topology; loading it without parameters gives the same topology."""
    lines = [f"topology: {_text(topology.name)}"]
    lines += [f"{key}: {_flow(value)}" for key, value in _changed(topology, ("name", "modules"))]
    lines.append("modules:")
    for name, module in topology.modules.items():
        lines.append(f"  {_text(name, key=True)}:")
        lines += [f"    {key}: {_flow(value)}" for key, value in _module(module)]
    return ("\n".join(lines) + "\n").encode()


def _module(module: Module) -> Iterator[tuple[str, object]]:
    given = dict(_changed(module, ("name",)))
    if module.launch is Launch.FUNCTION:
        # What `function` implies is left unsaid; slots have another default there.
        del given["launch"]
        given["slots"] = module.slots
        if module.slots == FUNCTION_SLOTS:
            del given["slots"]
    yield from given.items()


def _changed(struct: msgspec.Struct, leave_out: Sequence[str] = ()) -> Iterator[tuple[str, object]]:
    """Yield the fields that differ from their defaults."""
    for field in msgspec.structs.fields(struct):
        value = getattr(struct, field.name)
        default = _default(field)
        if field.name not in leave_out and value != default:
            yield field.name, value


def _default(field: msgspec.structs.FieldInfo) -> object:
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()


def _flow(value: object) -> str:
    match value:
        case Site():
            return _map(dict(_changed(value, ("name",))))
        case Retry():
            return _map({**value.rules, **dict(_changed(value, ("rules",)))})
        case msgspec.Struct():
            return _map(dict(_changed(value)))
        case Mapping():
            return _map(value)
        case tuple() | list():
            return "[" + ", ".join(_flow(item) for item in value) + "]"
    return _scalar(value)


def _map(pairs: Mapping[str, object]) -> str:
    inside = ", ".join(f"{_text(key, key=True)}: {_flow(value)}" for key, value in pairs.items())
    return "{" + inside + "}"


def _scalar(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case Duration():
            return _number(show_duration(value))
        case Size():
            return _number(show_size(value))
        case StrEnum():
            return _text(value.value)
        case int() | float():
            return _number(value)
    return _text(str(value))


def _number(value: str | float) -> str:
    if isinstance(value, str):
        return value
    short = f"{value:g}"
    return short if float(short) == value and "e" not in short else repr(value)


def _text(text: str, *, key: bool = False) -> str:
    """Return a text plain if nobody could read it as anything else, else in double quotes."""
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    filled = text if key else text.replace("$", "$$")
    return '"' + "".join(_character(c) for c in filled) + '"'


def _character(character: str) -> str:
    if character in _NOT_SHOWN:
        return _NOT_SHOWN[character]
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code <= _BMP else f"\\U{code:08x}"
