"""`defaults:` below every module, before anything is read: the answer to YAML's anchors.

A module's own value wins; maps (`env`, `limits`, `retry`, `gather`) are merged key by key.
`site: a` is made `sites: [a]` first, so that one says the same as the other from here on.
"""

import msgspec

from scalebox_actors.yamlgate import ListNode, MapNode, Node, ScalarNode, scalar_value

CONTAINER_ONLY = (
    *("image", "command", "args", "limits", "env", "mounts"),
    *("network", "user", "read_only", "devices", "warm", "batch", "keep"),
)
"""Fields that say something about a container and nothing about a function."""


def list_sites(root: Node) -> Node:
    """Return the tree with `sites: [a]` where a module or the defaults say `site: a`."""
    if not isinstance(root, MapNode):
        return root
    modules = root.get("modules")
    items = []
    for key, value in root.items:
        if key.value == "defaults":
            items.append((key, _with_list(value)))
        elif key.value == "modules" and isinstance(modules, MapNode):
            listed = tuple((name, _with_list(module)) for name, module in modules.items)
            items.append((key, _with_items(modules, listed)))
        else:
            items.append((key, value))
    return _with_items(root, tuple(items))


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


def _with_list(module: Node) -> Node:
    if not isinstance(module, MapNode) or module.get("sites") is not None:
        return module
    return _with_items(module, tuple(_listed(key, value) for key, value in module.items))


def _listed(key: ScalarNode, value: Node) -> tuple[ScalarNode, Node]:
    single = key.value == "site" and isinstance(value, ScalarNode)
    if not single or scalar_value(value) is None:  # type: ignore[arg-type]  # a scalar, as just seen
        return key, value
    listed = ListNode(items=(value,), line=value.line, column=value.column)
    return msgspec.structs.replace(key, value="sites"), listed


def _displaced(own: MapNode) -> tuple[str, ...]:
    """Defaults that make no sense for a module that says itself what it runs, and where."""
    sites = own.get("sites")
    alone = isinstance(sites, ListNode) and len(sites.items) == 1
    there = ("route", "overflow") if alone else ()
    if own.get("function") is not None:
        return (*CONTAINER_ONLY, "launch", *there)
    return ("function", "launch", *there) if own.get("image") is not None else there


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
