"""`defaults:` below every module, before anything is read: the answer to YAML's anchors.

A module's own value wins; maps (`env`, `limits`, `retry`, `gather`) are merged key by key.
"""

from scalebox_actors.yamlgate import MapNode, Node, ScalarNode

CONTAINER_ONLY = (
    *("image", "command", "args", "limits", "env", "mounts"),
    *("network", "user", "read_only", "devices"),
)
"""Fields that say something about a container and nothing about a function."""


def merge_defaults(root: Node) -> Node:
    """Return the tree with `defaults` in every module; what cannot be merged stays as it is."""
    if not isinstance(root, MapNode):
        return root
    defaults, modules = root.get("defaults"), root.get("modules")
    if not isinstance(defaults, MapNode) or not isinstance(modules, MapNode):
        return root
    merged = _with_items(
        modules,
        tuple((k, _module(v, defaults) if isinstance(v, MapNode) else v) for k, v in modules.items),
    )
    return _with_items(
        root, tuple((k, merged if k.value == "modules" else v) for k, v in root.items)
    )


def _module(own: MapNode, defaults: MapNode) -> MapNode:
    unwanted = _displaced(own)
    kept = tuple(item for item in defaults.items if item[0].value not in unwanted)
    return _merged(own, _with_items(defaults, kept))


def _displaced(own: MapNode) -> tuple[str, ...]:
    """Defaults that make no sense for a module that says itself what it runs."""
    if own.get("function") is not None:
        return (*CONTAINER_ONLY, "launch")
    return ("function", "launch") if own.get("image") is not None else ()


def _merged(own: MapNode, below: MapNode) -> MapNode:
    items = [(key, _over(value, below.get(key.value))) for key, value in own.items]
    items += [item for item in below.items if own.get(item[0].value) is None]
    return _with_items(own, tuple(items))


def _over(value: Node, default: Node | None) -> Node:
    if isinstance(value, MapNode) and isinstance(default, MapNode):
        return _merged(value, default)
    return value


def _with_items(node: MapNode, items: "tuple[tuple[ScalarNode, Node], ...]") -> MapNode:
    return MapNode(items=items, line=node.line, column=node.column)
