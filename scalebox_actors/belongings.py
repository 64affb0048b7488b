"""What a node has on its host: the containers with its labels that are not a living namesake's.

Each base of work directories has one node of a name, and there may be several bases on one engine:
of several stores, of several users. What a node left whose base nobody works in any more belongs
to its next namesake, wherever that has its base, or nobody would ever remove it.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from scalebox_actors.lockfile import is_held
from scalebox_actors.namelock import lock_path
from scalebox_actors.ports import Runtime, Stray

BASE = "sbx.base"


def labels_of(topology: str, node: str, base: Path) -> dict[str, str]:
    """Return what the containers of a node carry."""
    return {"sbx.topology": topology, "sbx.node": node, BASE: str(base)}


async def belongings(runtime: Runtime, labels: Mapping[str, str]) -> list[Stray]:
    """Return a node's containers, those of namesakes that work no more among them."""
    wanted = {name: value for name, value in labels.items() if name != BASE}
    strays = await runtime.stray(wanted)
    bases = {stray.labels.get(BASE, "") for stray in strays} - {"", labels[BASE]}
    if not bases:
        return strays
    away = await asyncio.to_thread(_at_work, bases, labels)
    return [stray for stray in strays if stray.labels.get(BASE) not in away]


def _at_work(bases: set[str], labels: Mapping[str, str]) -> set[str]:
    """Return those bases in which a namesake is at work; ours by another path is none."""
    topology, node = labels["sbx.topology"], labels["sbx.node"]
    ours = lock_path(Path(labels[BASE]), topology, node)
    locks = {base: lock_path(Path(base), topology, node) for base in bases}
    return {base for base, lock in locks.items() if not _is_same(lock, ours) and is_held(lock)}


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
