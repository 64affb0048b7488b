"""Which topology is meant: a YAML file, or the name of one that was deployed."""

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from scalebox_actors.cli.show import shortened, suggest
from scalebox_actors.errors import BadInput
from scalebox_actors.names import is_name
from scalebox_actors.topology.load import load_with_warnings, read_file
from scalebox_actors.topology.model import Topology
from scalebox_actors.topology.parameters import parameters


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """A topology from a file, and what is doubtful about it."""

    topology: Topology
    folder: Path
    """Where its functions are looked for first."""
    warnings: tuple[str, ...] = ()


def is_deployed_name(text: str) -> bool:
    """Whether `text` means a deployed topology and not a file."""
    return is_name(text) and not Path(text).is_file()


def load(path: str, sets: Sequence[str] = (), env_files: Sequence[str] = ()) -> Loaded:
    """Load a topology file with the parameters of the command line and the environment."""
    files = [(name, _read(name)) for name in env_files]
    params = parameters(sets, files, dict(os.environ))
    topology, warnings = load_with_warnings(read_file(path), path=path, params=params)
    folder = Path(path).absolute().parent
    return Loaded(topology=topology, folder=folder, warnings=tuple(warnings))


def check_module(topology: Topology, module: str) -> None:
    """Raise BadInput with a suggestion if the topology has no such module."""
    if module in topology.modules:
        return
    known = ", ".join(list(topology.modules)[:20])
    hint = suggest(module, topology.modules) or f"; there are {known}"
    raise BadInput(f"topology {topology.name} has no module `{shortened(module, 60)}`{hint}")


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInput(f"cannot be read: {reason}", path=path) from None
