"""What YAML made of what was written, and how to write what was meant."""

import re

import msgspec

from scalebox_actors.topology.model import Duration, Size
from scalebox_actors.topology.wording import shown
from scalebox_actors.yamlgate import ListNode, MapNode, Node, ScalarNode, scalar_value

FOREIGN_FIELDS = {
    "app": "topology",
    "base_image": "image",
    "clusters": "sites",
    "cluster": "site",
    "cmd": "command",
    "cores": "limits",
    "cpus": "limits",
    "environmens": "env",
    "gpus": "limits",
    "environment": "env",
    "environments": "env",
    "hosts": "slots",
    "jobs": "modules",
    "mem_limit": "limits",
    "memory": "limits",
    "name": "topology",
    "paths": "mounts",
    "retries": "retry",
    "retry_rules": "retry",
    "sink_jobs": "sinks",
    "sink_modules": "sinks",
    "task_max_seconds": "timeout",
    "task_timeout_seconds": "timeout",
    "volumes": "mounts",
}
"""What other systems, or people, call a field of ours."""

_ALMOST_SIZE = re.compile(r"[0-9.]+ *[kmgt]?i?b?", re.IGNORECASE)
_SEXAGESIMAL = re.compile(r"[0-9]+(:[0-9]+)+")
_OTHER_BASE = re.compile(r"[-+]?0[xo]?[0-9a-fA-F_]+")
_DIGITS = re.compile(r"[-+]?[0-9][0-9_]*")


def kind_of(node: Node) -> str:
    """Say what YAML made of a node."""
    match node:
        case ListNode():
            return "a list"
        case MapNode():
            return "a map"
        case ScalarNode():
            kind = _scalar_kind(node)
            return kind if kind == "empty" else f"{kind}, {shown(node.value)}"


def made_of(node: ScalarNode) -> str:
    """Say what was written and what YAML made of it."""
    value = scalar_value(node)
    if isinstance(value, float) and str(value) != node.value:
        return f"{shown(node.value)} is the number {value:g}"
    return f"{shown(node.value)} is {_scalar_kind(node)}"


def _scalar_kind(node: ScalarNode) -> str:
    match scalar_value(node):
        case None:
            return "empty"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
    return "text"


def hint_for(value: object, kind: object, node: ScalarNode) -> str:
    """Say how to write what was probably meant."""
    if kind is str:
        return "; quote it: " + shown(f"'{node.value}'")
    if not isinstance(value, str):
        return ""
    if kind is bool:
        return _boolean_hint(value.lower())
    if not node.plain and scalar_value(msgspec.structs.replace(node, plain=True)) != value:
        return "; write it without quotes"
    if kind is Size and _ALMOST_SIZE.fullmatch(value):
        return "; the units are KiB, MiB, GiB, TiB and KB, MB, GB, TB, without a blank"
    return _digits_hint(value, kind)


def _digits_hint(value: str, kind: object) -> str:
    """For what YAML 1.1 took for a number and we, like YAML 1.2, do not."""
    if _SEXAGESIMAL.fullmatch(value):
        return " here, no number in base 60" + ("; write `22m22s`" if kind is Duration else "")
    if _OTHER_BASE.fullmatch(value):
        return " here; write the number in decimal, without leading zeros"
    return " here; write at most 18 digits, without `_`" if _DIGITS.fullmatch(value) else ""


def _boolean_hint(value: str) -> str:
    if value in ("yes", "on", "y"):
        return "; write `true`"
    return "; write `false`" if value in ("no", "off", "n") else ""


def as_list_hint(node: Node, *, shell: bool) -> str:
    """Show the list that a text stood for, if it did."""
    if isinstance(node, ScalarNode) and scalar_value(node) is not None:
        words = ", ".join(node.value.split()[:4])
        no_shell = " (no shell is used)" if shell else ""
        return f"; write it as a list: {shown('[' + words + ']')}{no_shell}"
    return ""
