"""A YAML file becomes a `Topology`, or one error that says everything that is wrong with it.

Bytes → nodes (the gate) → parameters filled in → defaults merged → types → checks → whether what
is kept of it, the defaults in every module, could be read again. Every step
keeps the place of what it handles, so every error has its line and column. What has a wrong type
does not keep the rest from being checked; only what rests on it is not judged.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path as FilePath

from scalebox_actors.errors import BadInput
from scalebox_actors.limits import (
    FAULTS_SHOWN,
    HEADER_BLOCK_BYTES,
    TOPOLOGY_BYTES,
    TOPOLOGY_NODES,
)
from scalebox_actors.topology.checks import check
from scalebox_actors.topology.findings import Finding, Path
from scalebox_actors.topology.merge import list_sites, merge_defaults
from scalebox_actors.topology.model import Topology
from scalebox_actors.topology.parameters import Filled, fill
from scalebox_actors.topology.read import Problem, read
from scalebox_actors.topology.render import render
from scalebox_actors.yamlgate import ListNode, MapNode, Node, ScalarNode, compose

_NO_PARAMS: Mapping[str, str] = {}


def load(data: bytes, *, path: str, params: Mapping[str, str] = _NO_PARAMS) -> Topology:
    """Return the topology that `data` says; `path` is only for messages.

    Raises BadInput for the first thing that is wrong; its `errors` has them all.
    """
    return load_with_warnings(data, path=path, params=params)[0]


def load_file(path: str, params: Mapping[str, str] = _NO_PARAMS) -> Topology:
    """Return the topology in a file."""
    return load(read_file(path), path=path, params=params)


def read_file(path: str) -> bytes:
    """Return what a topology file holds; of one that is too large only so much that it shows."""
    try:
        with FilePath(path).open("rb") as file:
            return file.read(TOPOLOGY_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInput(f"cannot be read: {reason}", path=path) from None


def load_with_warnings(
    data: bytes, *, path: str, params: Mapping[str, str] = _NO_PARAMS
) -> tuple[Topology, list[str]]:
    """Return the topology and, as `path:line:column: warning: …`, what is doubtful about it."""
    root = compose(data, path)
    if root is None:
        raise BadInput("there is nothing in this file", path=path, line=1, column=1)
    filled = fill(root, params, path)
    filled = Filled(root=merge_defaults(list_sites(filled.root)), places=filled.places)
    reading = read(filled)
    findings = check(reading.topology, reading.unread) if reading.topology else []
    wrong = {*reading.problems, *_placed(findings, filled.root, fatal=True)}
    if wrong or reading.topology is None:
        raise _refusal(sorted(wrong)[:FAULTS_SHOWN], path)
    _check_kept(reading.topology, root, path)
    doubtful = _placed(findings, filled.root, fatal=False)
    return reading.topology, [f"{path}:{p.line}:{p.column}: warning: {p.message}" for p in doubtful]


def _check_kept(topology: Topology, root: Node, path: str) -> None:
    """Raise BadInput if what a deployment keeps of a topology is too much to be kept or read."""
    text = render(topology)
    told, most = "", TOPOLOGY_BYTES - HEADER_BLOCK_BYTES
    if len(text) > most:
        told = f"{len(text):,} bytes, more than {most:,}"
    elif len(text) > TOPOLOGY_NODES:  # fewer bytes cannot be more values
        try:
            compose(text, path)
        except BadInput as error:
            told = error.message
    if told:
        line, column = _Places(root).find(("defaults",), at_key=True)
        told = f"what is deployed of this, with `defaults` in every module, has {told}"
        raise BadInput(told, path=path, line=line, column=column)


def _refusal(problems: Iterable[Problem], path: str) -> BadInput:
    errors = tuple(
        BadInput(problem.message, path=path, line=problem.line, column=problem.column)
        for problem in problems
    )
    errors[0].errors = errors
    return errors[0]


def _placed(findings: Iterable[Finding], root: Node, *, fatal: bool) -> list[Problem]:
    """Return findings of one kind in the order of the file."""
    places = _Places(root)
    chosen = (finding for finding in findings if finding.fatal is fatal)
    return sorted({Problem(*places.find(f.path, at_key=f.at_key), f.message) for f in chosen})


class _Places:
    """Finds the place of a path in a tree: its value, or its key where that says more."""

    def __init__(self, root: Node) -> None:
        self._root = root
        self._maps: dict[int, dict[str, tuple[ScalarNode, Node]]] = {}

    def find(self, path: Path, *, at_key: bool) -> tuple[int, int]:
        """Return line and column of a path, or of what is nearest above it."""
        node, place = self._root, (self._root.line, self._root.column)
        for step in path:
            found = self._step(node, step)
            if found is None:
                return place
            key, node = found
            marked = key if at_key or not isinstance(node, ScalarNode) else node
            place = (marked.line, marked.column)
        return place

    def _step(self, node: Node, step: str | int) -> tuple[Node, Node] | None:
        if isinstance(node, MapNode):
            pairs = self._maps.get(id(node))
            if pairs is None:
                pairs = self._maps[id(node)] = {pair[0].value: pair for pair in node.items}
            return pairs.get(str(step))
        if isinstance(node, ListNode) and isinstance(step, int) and step < len(node.items):
            return node.items[step], node.items[step]
        return None
