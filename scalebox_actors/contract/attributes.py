"""The two maps that a run may leave: `task-exec` and `extra-attrs`."""

import re
from typing import NamedTuple

import msgspec

from scalebox_actors.contract.headers import json_text
from scalebox_actors.contract.texts import Notes, check_size, one_line
from scalebox_actors.errors import UNREADABLE, BadInput, BadOutput
from scalebox_actors.limits import EXTRA_ATTRIBUTE_BYTES, OUTPUT_FILE_BYTES
from scalebox_actors.yamlgate import MapNode, ScalarNode, compose, plain, scalar_value

_BYTE = re.compile(r"\(byte (\d+)\)")
_STATUSES = range(256)
_LONGEST_COUNT = 2**63
_ALIASES = {
    "messageText": "messageBody",
    "taskBody": "messageBody",
    "sinkJob": "sinkModule",
}
_TEXTS = frozenset({"messageBody", "sinkModule", "userText"})
_KEYS = _TEXTS | {
    *("statusCode", "inputBytes", "outputBytes", "inputFiles", "outputFiles", "timestamps")
}
MEASURED = frozenset(
    {
        *("timestamps", "iobytes", "network_io", "declared"),
        *("input_bytes", "output_bytes", "warnings"),
    }
)
"""Keys of `extras` that are ours; a user's attribute of that name goes below `declared`."""


class TaskExec(NamedTuple):
    """What task-exec says; None where it says nothing."""

    status: int = 0
    body: str | None = None
    module: str | None = None
    user_text: str | None = None
    input_bytes: int | None = None
    output_bytes: int | None = None
    input_files: list[str] | None = None
    output_files: list[str] | None = None
    timestamps: list[str] | None = None
    place: str = ""
    """Where the message is asked for."""


class _Map(NamedTuple):
    values: dict[str, object]
    lines: dict[str, int]
    source: str

    def place(self, key: str) -> str:
        return f"{self.source}:{self.lines.get(key, 1)}"


def task_exec(data: bytes, source: str, notes: Notes) -> TaskExec:
    """Read `task-exec`; raises BadOutput if its status or its message cannot be understood."""
    check_size(data, source)
    read = _canonical(_read_map(data, source, OUTPUT_FILE_BYTES), notes)
    for key in sorted(read.values.keys() - _KEYS)[:10]:
        notes.warn(f"{read.place(key)}: unknown key {key[:80]!r}")
    return TaskExec(
        status=_status(read),
        body=_text(read, "messageBody"),
        module=_text(read, "sinkModule") or None,
        user_text=_text(read, "userText"),
        input_bytes=_declared(read, "inputBytes", notes),
        output_bytes=_declared(read, "outputBytes", notes),
        input_files=_list(read, "inputFiles", notes),
        output_files=_list(read, "outputFiles", notes),
        timestamps=_list(read, "timestamps", notes),
        place=read.place("messageBody"),
    )


def extra_attributes(data: bytes, source: str, notes: Notes) -> dict[str, object]:
    """Return the user's own attributes of a run; what cannot be read is left out with a warning."""
    check_size(data, source)
    try:
        return _read_map(data, source, EXTRA_ATTRIBUTE_BYTES).values
    except BadOutput as error:
        notes.warn(str(error))
        return {}


def _read_map(data: bytes, source: str, limit: int) -> _Map:
    """Read JSON, or YAML through the gate; the other fault is told if it is neither."""
    if len(data) > limit:
        raise BadOutput(f"{source}:1: larger than {limit} bytes")
    looks_json = data.lstrip()[:1] == b"{"
    if looks_json or source.endswith(".json"):
        try:
            return _Map(msgspec.json.decode(data, type=dict[str, object]), {}, source)
        except UNREADABLE as error:
            told = source.endswith(".json") and looks_json
            if told and not isinstance(error, UnicodeDecodeError):  # the gate says where that is
                raise BadOutput(f"{source}:{_json_line(data, error)}: {one_line(error)}") from None
    try:
        root = compose(data, source, limit=limit)
    except BadInput as error:
        raise BadOutput(str(error)) from None
    if root is None:
        return _Map({}, {}, source)
    if not isinstance(root, MapNode):
        raise BadOutput(f"{source}:{root.line}: not a map of keys and values")
    values = {key.value: plain(value) for key, value in root.items}
    for key, value in root.items:
        # A text is what was written: `messageBody: 1.50` is not the number 1.5.
        is_text = _ALIASES.get(key.value, key.value) in _TEXTS
        if is_text and isinstance(value, ScalarNode) and scalar_value(value) is not None:
            values[key.value] = value.value
    return _Map(values, {key.value: key.line for key, _ in root.items}, source)


def _json_line(data: bytes, error: Exception) -> int:
    match = _BYTE.search(str(error))
    if match:
        return data.count(b"\n", 0, int(match.group(1)) - 1) + 1
    return data.count(b"\n") + 1 if "truncated" in str(error) else 1


def _canonical(read: _Map, notes: Notes) -> _Map:
    """Return the map under the current names of its keys; null is as good as absent."""
    values = {key: value for key, value in read.values.items() if value is not None}
    lines = dict(read.lines)
    for alias, name in _ALIASES.items():
        if alias not in values:
            continue
        value = values.pop(alias)
        if name in values:
            notes.warn(f"{read.place(alias)}: `{alias}` is ignored beside `{name}`")
        else:
            values[name], lines[name] = value, lines.get(alias, 1)
    return _Map(values, lines, read.source)


def _status(read: _Map) -> int:
    status = read.values.get("statusCode", 0)
    if isinstance(status, int) and not isinstance(status, bool) and status in _STATUSES:
        return status
    raise BadOutput(f"{read.place('statusCode')}: statusCode is not a whole number from 0 to 255")


def _text(read: _Map, key: str) -> str | None:
    return json_text(read.values[key]) if key in read.values else None


def _declared(read: _Map, key: str, notes: Notes) -> int | None:
    count = read.values.get(key)
    if count is None:
        return None
    if isinstance(count, int) and not isinstance(count, bool) and 0 <= count < _LONGEST_COUNT:
        return count
    notes.warn(f"{read.place(key)}: {key} is not a number of bytes")
    return None


def _list(read: _Map, key: str, notes: Notes) -> list[str] | None:
    items = read.values.get(key)
    if items is None:
        return None
    if isinstance(items, list) and all(isinstance(item, str) for item in items):
        return items
    notes.warn(f"{read.place(key)}: {key} is not a list of texts")
    return None
