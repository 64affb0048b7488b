"""How large a node is: options of `run`, `node`, `plan` and `check`."""

from collections.abc import Callable
from typing import TypeVar

import click
import msgspec

from scalebox_actors.capacity import room_of
from scalebox_actors.cli.options import Finite
from scalebox_actors.cli.show import size
from scalebox_actors.errors import BadInput
from scalebox_actors.pool import InUse, Room, lack, whole_claim
from scalebox_actors.topology.model import Topology
from scalebox_actors.topology.quantity import parse_size

F = TypeVar("F", bound=Callable[..., object])


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator says about the size of a node, as it was typed."""

    cpus: float | None = None
    memory: str | None = None
    gpus: str | None = None

    @property
    def given(self) -> bool:
        """Whether anything was said."""
        return self != Sizes()

    @property
    def room(self) -> Room:
        """The room of such a node on this host; raises BadInput for what is wrong."""
        return room_of(self.cpus, read_size("--memory", self.memory), self.gpus)


def sized(function: F) -> F:
    """Give a command the options of a node's size."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


_OPTIONS: tuple[Callable[[F], F], ...] = (
    click.option("--cpus", type=Finite(min=0, min_open=True),
                 help="CPUs for all runs of a node together.  [default: the host's]"),
    click.option("--memory", metavar="SIZE",
                 help="Memory for all runs of a node together.  [default: the host's, less 1GiB]"),
    click.option("--gpus", metavar="LIST",
                 help="GPUs for a node's runs: 0,1 or 0-3, none, auto.  [default: auto]"),
)  # fmt: skip


def sizes_of(given: dict[str, object]) -> Sizes:
    """Take the options of a node's size out of all that were typed."""
    return msgspec.convert({name: given.pop(name) for name in Sizes.__struct_fields__}, Sizes)


def read_size(flag: str, text: str | None) -> int | None:
    """Read a size from the command line; raises BadInput."""
    if text is None:
        return None
    found = parse_size(text)
    if found is None:
        raise BadInput(f"{flag} {text[:80]!r} is not a size like 512MiB or 4GiB")
    return int(found)


def never_fit(topology: Topology, room: Room) -> dict[str, str]:
    """Return the modules that a node of this size can never run, with the reason."""
    reasons = {name: lack(whole_claim(m), room) for name, m in topology.modules.items()}
    return {name: reason for name, reason in reasons.items() if reason}


def use_text(use: InUse) -> str:
    """Return how much of a node is taken: `cpus 1.5/4, memory 1GiB/7GiB, gpus 0,1 of 4`."""
    room, taken = use.room, use.taken
    parts = []
    if room.millicpus is not None:
        parts.append(f"cpus {taken.millicpus / 1000:g}/{room.millicpus / 1000:g}")
    if room.memory is not None:
        parts.append(f"memory {size(taken.memory)}/{size(room.memory)}")
    if room.gpus:
        parts.append(f"gpus {len(taken.gpus)}/{len(room.gpus)}")
    if use.waiting:
        parts.append(f"{use.waiting} waiting for room")
    return ", ".join(parts)
