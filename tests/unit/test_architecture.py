"""The house stands as it is drawn: imports go down only, rooms on one floor are strangers."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "scalebox_actors"

FLOORS = {
    "errors": 0, "limits": 0, "names": 0, "yamlgate": 0, "topology": 0, "contract": 0,
    "message": 0, "records": 0, "policy": 0, "spec": 0, "ports": 0, "gather": 0, "effects": 0,
    "insight": 0, "placement": 0, "rights": 0, "sites": 0,
    "login": 0, "crossing": 0, "parcel": 0, "cargo": 0, "sockets": 0,
    "staying": 0, "pool": 0, "advice": 0, "facts": 0, "garbage": 0, "trees": 0,
    "batches": 1, "settle": 1, "admission": 1,
    "hands": 1, "journal": 1, "committer": 1, "groups": 1, "actor": 1, "launch": 1, "broker": 1,
    "foresight": 1,
    "ledger": 1, "courier": 1, "runtimes": 1, "server": 1, "testing": 1, "keys": 1,
    "lockfile": 1,
    "node": 2, "reaper": 2, "local": 2, "operations": 2, "clerk": 2, "questions": 2, "health": 2,
    "cancelling": 2, "leftovers": 2, "strays": 2, "capacity": 2, "survey": 2, "namelock": 2,
    "belongings": 2, "hosting": 2,
    "cli": 3,
}  # fmt: skip

# Floor 1 holds rooms that others there may enter: parts of the actor's own path, and tools.
NEIGHBOURS = {
    ("actor", "hands"): "the actor works with its hands",
    ("actor", "foresight"): "the actor reads done-records ahead",
    ("actor", "batches"): "the actor lets messages that it took at once share a slot",
    ("actor", "settle"): "the actor has its runs settled",
    ("settle", "batches"): "tasks that ran as one are settled as one",
    ("settle", "committer"): "how a task ended goes to the committer",
    ("settle", "journal"): "runs are written into the journal",
    ("settle", "ledger"): "what came from other sites is counted",
    ("actor", "admission"): "its runs get their share of the node",
    ("hands", "admission"): "hands ask for no more than there is room for",
    ("actor", "journal"): "the actor writes its runs into the journal",
    ("courier", "ledger"): "the courier counts what it carried",
    ("courier", "committer"): "the courier buries what no site can read",
    ("settle", "groups"): "a group ends with its joined task",
    ("groups", "journal"): "a group that is buried counts as a dead task",
    ("server", "lockfile"): "a store has one server at a time",
}

OUTSIDE = {
    "nats": {"broker"},
    "nkeys": {"keys"},
    "cryptography": {"keys"},
    "aiodocker": {"runtimes"},
    "aiohttp": {"runtimes"},
    "yaml": {"yamlgate"},
    "click": {"cli"},
    "rich": {"cli"},
    "uvloop": {"cli"},
    "aiofiles": {"launch", "reaper", "local"},
}


def room_of(path: Path) -> str:
    """Return the room a file belongs to: its folder or its own name."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield every imported module of a file with its line, also those inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.lineno, node.module
            if node.module.startswith("scalebox_actors"):  # what is taken from it may be a file
                yield from ((node.lineno, f"{node.module}.{a.name}") for a in node.names)


def file_of(module: str) -> Path:
    """Return the file of a module of ours."""
    place = ROOT / module.replace(".", "/")
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


BESIDE = sorted(
    path for room in ("tests", "bench", "examples") for path in (ROOT / room).rglob("*.py")
)
FILES = sorted(
    path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE
)


def test_every_file_has_its_floor() -> None:
    """A new room is drawn into the plan before it is built."""
    unknown = {room_of(path) for path in FILES} - set(FLOORS)

    assert not unknown


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    """No line of a file imports upwards, sideways, or a library that is another room's."""
    room, wrong = room_of(path), []
    for line, name in imports(path):
        parts = name.split(".")
        if parts[0] == "scalebox_actors" and len(parts) > 1 and parts[1] != room:
            up = FLOORS[parts[1]] > FLOORS[room]
            sideways = FLOORS[parts[1]] == FLOORS[room] == 1 and room != "testing"
            if up or (sideways and (room, parts[1]) not in NEIGHBOURS):
                wrong.append(f"line {line}: {room} imports {name}")
        elif parts[0] in OUTSIDE and room not in OUTSIDE[parts[0]]:
            wrong.append(f"line {line}: {parts[0]} is not for {room}")

    assert wrong == []


def test_the_shepherd_needs_no_site_package() -> None:
    """It is started without any: all that it imports, and that that imports, is Python's own."""
    left, seen, wrong = ["scalebox_actors.runtimes.shepherd_main"], set[str](), []
    while left:
        module = left.pop()
        parent = module.rpartition(".")[0]
        if parent:
            left.append(parent)  # a package is executed before what is in it
        if module in seen or not file_of(module).exists():  # imported already, or a name in one
            continue
        seen.add(module)
        for line, name in imports(file_of(module)):
            if name.partition(".")[0] == "scalebox_actors":
                left.append(name)
            elif name.partition(".")[0] not in sys.stdlib_module_names:
                wrong.append(f"{module}, line {line}: {name}")

    assert wrong == []
    assert "scalebox_actors.runtimes.cgroup_files" in seen


@pytest.mark.parametrize("path", FILES + BESIDE, ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_keep_their_size(path: Path) -> None:
    """A file has at most 400 lines and a function at most 60."""
    text = path.read_text()
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > 60
    ]

    assert long == []
    assert len(text.splitlines()) <= 400


def test_no_type_checking_trick() -> None:
    """The floors keep imports free of cycles, so no file needs `TYPE_CHECKING`."""
    users = [str(path) for path in FILES if "TYPE_CHECKING" in path.read_text()]

    assert users == []
