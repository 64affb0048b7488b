"""The JSON Schema of a topology file, for completion and checking in an editor.

Made from the fields and types of `model.py`. It says the same as the loader about fields, types
and most ranges; what needs the whole file (sinks that exist) or our own words stays with
`sbx-actor check`. A parameter may stand for any single value, so `${…}` is allowed everywhere.
"""

import inspect
from collections.abc import Mapping
from enum import StrEnum
from types import NoneType, UnionType
from typing import Union, get_args, get_origin

import msgspec

from scalebox_actors import limits
from scalebox_actors.names import NAME_GRAMMAR
from scalebox_actors.topology.model import (
    Batch,
    Duration,
    Gather,
    Keep,
    Limits,
    Link,
    Module,
    Overflow,
    Retry,
    Site,
    Size,
    Topology,
)
from scalebox_actors.topology.quantity import (
    DURATION_GRAMMAR,
    SIZE_GRAMMAR,
    show_duration,
    show_size,
)

Schema = dict[str, object]

SERVERS = 3
DRAFT = "https://json-schema.org/draft/2020-12/schema"
PARAMETER: Schema = {"type": "string", "pattern": r"\$\{"}

DESCRIPTIONS: Mapping[str, str] = {
    "topology": "The name of this topology; streams and subjects carry it.",
    "modules": "The programs of the pipeline, by name.",
    "defaults": "Fields that every module has unless it says otherwise.",
    "remember": "How long a repeated message is recognised.",
    "max_bytes": "How much the stream may hold; full means stop, never drop.",
    "hops": "How many modules a message and what follows from it may pass.",
    "label": "One line for people.",
    "image": "The container image; best with a tag or a digest.",
    "command": "The program and its first arguments, as a list; no shell is used.",
    "args": "Instead of body and headers: arguments with {body} {headers} {id} {work}.",
    "function": "An async Python function, `module:function`, instead of an image.",
    "launch": "How the program meets its messages; a function is launched as `function`.",
    "warm": "With `launch: fresh`: so many containers on each node are started ahead.",
    "batch": "With `launch: slot`: several messages for a slot at once.",
    "size": "So many messages at most.",
    "atomic": "The program runs once for all of them.",
    "keep": "How long a container lives that outlives a message, or is there before it.",
    "runs": "After so many runs another container takes its place; 0: never for that.",
    "age": "So old another container takes its place.",
    "idle": "So long without a message it ends, until there is one again.",
    "shortest": "Three runs on end, each shorter than this, close the slot.",
    "restarts": "So often on end a slot, or a program, that does not get going is started again.",
    "sinks": "The modules that this one may send to; without any, its outputs are results.",
    "slots": "How many of its tasks run at once on each node.",
    "timeout": "After this time a run is ended (exit code 124).",
    "limits": "What a container may use.",
    "memory": "Memory, swap included; at least 6MiB.",
    "cpus": "Processors, as a number; 0.5 is half of one.",
    "pids": "Processes and threads together.",
    "gpus": "Whole GPUs of the node, for each run its own.",
    "retry": "Which exit codes are tried again, and how often: {75: 3, '*': 1, delay: 2s}.",
    "delay": "The wait before the first retry.",
    "factor": "Each further wait is this many times as long.",
    "jitter": "Up to this share of a wait is added to it at random.",
    "longest": "No wait is longer.",
    "most": "All retries of a task together, over all codes.",
    "gather": "Fan-in: one message once all members of a group have arrived.",
    "by": "What names the group: a header, `root`, or a regular expression on the body.",
    "count": "How many members a group has: a number, or the header that says it.",
    "min_ok": "With this many members a group is let go at its timeout.",
    "env": "Environment variables; no place for secrets.",
    "mounts": "`root:relative/path:/target[:rw]`; the node's operator names the roots.",
    "network": "A network that the node's operator allows; without it there is none.",
    "user": "Whom the program runs as: `uid`, `uid:gid` or names.",
    "read_only": "Whether the container's own file system is read-only.",
    "devices": "Devices below /dev that the node's operator allows.",
    "sites": "The data centres, by name; below a module: those where it runs.",
    "site": "The one site where the module runs.",
    "route": "Which site a message goes to: `local-first`, `spread` or `body-hash`.",
    "overflow": "With `route: local-first`: when other sites help out.",
    "pending": "So many messages waiting here before the next ones go elsewhere.",
    "hub": "The one site that the others are joined through.",
    "address": "Where the hub listens for the other sites: `host:port`.",
    "listen": "Where the site's server listens for its own clients.",
    "servers": "With `replicas: 3`: the three hosts of the site's cluster.",
    "replicas": "On how many servers of the site each message is kept: 1 or 3.",
    "data_root": "What programs find there in CLUSTER_DATA_ROOT.",
    "store": "The directory of the server's files.",
    "link": "What may cross the link to the other sites.",
    "rate": "Messages a second.",
    "bandwidth": "Bytes a second.",
    "priorities": "Module to priority when carried to another site; higher goes first.",
    "identity": "What makes two messages the same: `lineage` or `body`.",
    "output_text_size": "So many bytes of each output are kept.",
    "text_trunc_mode": "Which part of a longer output is cut off.",
}

_RANGES: Mapping[str, Schema] = {
    "hops": {"minimum": 1, "maximum": limits.HOPS_CEILING},
    "slots": {"minimum": 1, "maximum": limits.SLOTS_PER_NODE},
    "warm": {"minimum": 0, "maximum": limits.WARM_PER_MODULE},
    "size": {"minimum": 1, "maximum": limits.BATCH_TASKS},
    "runs": {"minimum": 0, "maximum": limits.KEEP_RUNS},
    "restarts": {"minimum": 0, "maximum": limits.SLOT_RESTARTS},
    "pids": {"minimum": 1, "maximum": limits.PIDS_CEILING},
    "cpus": {"minimum": limits.CPUS_MINIMUM},
    "gpus": {"minimum": 0, "maximum": limits.GPUS_CEILING},
    "factor": {"minimum": 1},
    "jitter": {"minimum": 0, "maximum": 1},
    "most": {"minimum": 0, "maximum": limits.RETRIES_CEILING},
    "rate": {"exclusiveMinimum": 0},
    "replicas": {"enum": [1, 3]},
    "pending": {"minimum": 1},
    "min_ok": {"minimum": 1, "maximum": limits.GROUP_MEMBERS},
    "output_text_size": {"minimum": 0, "maximum": limits.OUTPUT_TEXT_CEILING},
}
_LONGEST: Mapping[str, int] = {
    "command": limits.COMMAND_ARGUMENTS,
    "args": limits.COMMAND_ARGUMENTS,
    "sinks": limits.SINKS_PER_MODULE,
    "mounts": limits.MOUNTS_PER_MODULE,
    "devices": limits.DEVICES_PER_MODULE,
    "sites": limits.SITES,
    "servers": SERVERS,
}
_RETRY_RULE: Schema = {"type": "string", "pattern": r"^\s*(\*|[0-9]{1,3})\s*(:\s*[0-9]{1,3}\s*)?$"}


def schema() -> Schema:
    """Return the JSON Schema (draft 2020-12) of a topology file."""
    module = _struct(Module, leave_out=("name",), site={"type": "string"})
    top = _properties(Topology, leave_out=("name", "modules", "sites"))
    names: Schema = {"pattern": f"^{NAME_GRAMMAR}$"}
    properties: Schema = {
        "topology": _said("topology", _or_parameter({"type": "string", **names})),
        "modules": _said(
            "modules",
            {
                "type": "object",
                "propertyNames": names,
                "additionalProperties": {"$ref": "#/$defs/Module"},
                "minProperties": 1,
                "maxProperties": limits.TOPOLOGY_MODULES,
            },
        ),
        "defaults": _said("defaults", {"$ref": "#/$defs/Module"}),
        "sites": _said(
            "sites",
            {
                "type": "object",
                "propertyNames": names,
                "additionalProperties": {"anyOf": [{"$ref": "#/$defs/Site"}, {"type": "null"}]},
                "minProperties": 1,
                "maxProperties": limits.SITES,
            },
        ),
        **top,
    }
    return {
        "$schema": DRAFT,
        "title": "Topology",
        "description": _doc(Topology),
        "type": "object",
        "properties": properties,
        "required": ["topology", "modules"],
        "additionalProperties": False,
        "$defs": {
            "Module": module,
            "Limits": _struct(Limits),
            "Retry": _retry(),
            # What a module's gather lacks may come from `defaults`, so nothing is required.
            "Gather": _struct(Gather),
            "Batch": _struct(Batch),
            "Keep": _struct(Keep),
            "Overflow": _struct(Overflow),
            "Site": _struct(Site, leave_out=("name",)),
            "Link": _struct(Link),
        },
    }


def _struct(kind: type[msgspec.Struct], leave_out: tuple[str, ...] = (), **more: Schema) -> Schema:
    return {
        "description": _doc(kind),
        "type": "object",
        "properties": _properties(kind, leave_out)
        | {name: _said(name, what) for name, what in more.items()},
        "additionalProperties": False,
    }


def _retry() -> Schema:
    mapping = _struct(Retry, leave_out=("rules",))
    count: Schema = {"type": "integer", "minimum": 0, "maximum": limits.RETRIES_CEILING}
    mapping["patternProperties"] = {r"^(\*|[1-9][0-9]{0,2})$": _or_parameter(count)}
    listed: Schema = {"type": "array", "items": {"anyOf": [{"type": "integer"}, _RETRY_RULE]}}
    return {"description": _doc(Retry), "anyOf": [mapping, listed, {"type": "string"}]}


def _properties(kind: type[msgspec.Struct], leave_out: tuple[str, ...] = ()) -> Schema:
    return {
        field.name: _said(field.name, _of(field.type, field.name) | _default(field))
        for field in msgspec.structs.fields(kind)
        if field.name not in leave_out
    }


def _said(name: str, what: Schema) -> Schema:
    return {"description": DESCRIPTIONS[name], **what}


def _of(kind: object, name: str) -> Schema:
    """Return the schema of a field's type."""
    kinds = [k for k in _alternatives(kind) if k is not NoneType]
    if len(kinds) > 1:
        return {"anyOf": [_of(k, name) for k in kinds]}
    [kind] = kinds
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return {"$ref": f"#/$defs/{kind.__name__}"}
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return _or_parameter({"enum": [word.value for word in kind]})
    if get_origin(kind) is tuple:
        least = 1 if name == "command" else 0
        longest = _LONGEST[name]
        return {
            "type": "array",
            "items": {"type": "string"},
            "minItems": least,
            "maxItems": longest,
        }
    if kind in _SCALARS:
        return _scalar(_SCALARS[kind], name)
    return {"type": "object", "additionalProperties": _of(get_args(kind)[1], name)}


def _scalar(schema: Schema, name: str) -> Schema:
    if schema["type"] == "string":
        return dict(schema)
    return _or_parameter({**schema, **_RANGES.get(name, {})})


_SCALARS: dict[object, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    Duration: {"type": ["number", "string"], "minimum": 0, "pattern": f"^({DURATION_GRAMMAR})$"},
    Size: {"type": ["integer", "string"], "minimum": 0, "pattern": f"^({SIZE_GRAMMAR})$"},
}


def _or_parameter(schema: Schema) -> Schema:
    return {"anyOf": [schema, PARAMETER]}


def _alternatives(kind: object) -> tuple[object, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _default(field: msgspec.structs.FieldInfo) -> Schema:
    match field.default:
        case Duration() as duration:
            return {"default": show_duration(duration)}
        case Size() as size:
            return {"default": show_size(size)}
        case str() | bool() | int() | float() as value if value != "":
            return {"default": value.value if isinstance(value, StrEnum) else value}
    return {}


def _doc(kind: type[msgspec.Struct]) -> str:
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())
