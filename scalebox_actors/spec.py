"""What a container gets: the hardened defaults and the operator's ceiling live here only.

`container_spec` is pure. A topology may ask for less than the ceiling, never for more; what it
asks for too much is refused when the topology is loaded (`check_ceiling`), before anything runs.
"""

import os.path
from collections.abc import Mapping

import msgspec

from scalebox_actors.errors import NotPermitted
from scalebox_actors.limits import CONTAINER_LOG_BYTES, SLOTS_PER_NODE, STOP_GRACE
from scalebox_actors.topology.model import Launch, Module, Topology

OPEN_FILES = 1024
TMP_BYTES = 16 * 1024 * 1024
DOOR = "/sbx"
"""Where a container that stays sees the folder by which its node talks with it."""


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """A directory of the host inside the container; read-only unless said otherwise."""

    source: str
    target: str
    writable: bool = False
    root: str = ""
    """The operator's directory that the source's real path must stay below."""
    ours: bool = False
    """A folder that the node made: no topology names it, so nothing is to be checked."""


class Root(msgspec.Struct, frozen=True, kw_only=True):
    """A directory that the operator lets topologies mount parts of."""

    path: str
    writable: bool = False


class Ceiling(msgspec.Struct, frozen=True, kw_only=True):
    """The most that the node's operator allows any container; given by flags, never by YAML."""

    images: tuple[str, ...] = ()
    """Allowed beginnings of image names; empty allows all."""
    roots: Mapping[str, Root] = {}
    networks: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    memory: int | None = None
    cpus: float | None = None
    pids: int = 4096
    gpus: int | None = None
    slots: int = SLOTS_PER_NODE
    read_only: bool = False
    user: str = ""
    """Run every container as this user, whatever the topology says."""
    require_memory: bool = False
    unlimited: bool = False
    """Whether limits of memory and CPUs are not kept, whatever the topology says."""


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """Runs that take turns: of all in a lane no more run at once than it has seats."""

    name: str
    seats: int
    variables: Mapping[str, str] = {}
    """What a run is told in its environment of its seat: each text is followed by its number."""


class ContainerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One container, completely: a runtime adds nothing that is not here."""

    name: str
    image: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    labels: Mapping[str, str]
    work: str
    """The work directory on the host; mounted writable as the container's working directory."""
    wrapper: tuple[str, ...] = ()
    """Executed in place of the program, and given the program to execute as its arguments: the
    image's entry point and `command`, or without a command the image's own."""
    mounts: tuple[Mount, ...] = ()
    memory: int | None = None
    cpus: float | None = None
    pids: int = 256
    open_files: int = OPEN_FILES
    user: str = ""
    read_only: bool = False
    network: str = ""
    """Empty: no network at all."""
    devices: tuple[str, ...] = ()
    stop_grace: float = STOP_GRACE
    log_bytes: int = CONTAINER_LOG_BYTES
    lane: Lane | None = None
    """For runtimes that know lanes; see `Runtime.lanes`."""


class Home(msgspec.Struct, frozen=True, kw_only=True):
    """Whose a run is, and what it has of its node."""

    topology: str
    site: str
    node: str
    base: str = ""
    """Where the node makes work directories: of two nodes of one name each has its own."""
    devices: tuple[str, ...] = ()
    """Those of the GPUs that it was given."""
    share: str = ""
    """What it takes of its node, for a node that comes back."""


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """What a run brings to its container: who it is, what it executes and where."""

    name: str
    home: Home
    task_id: str
    attempt: int
    command: tuple[str, ...]
    env: Mapping[str, str]
    work: str
    role: str = ""
    """`warm`, `slot` or `resident` for a container that is not made for one task alone."""
    doors: tuple[Mount, ...] = ()
    """Folders of ours that it sees besides what its module mounts."""
    wrapper: tuple[str, ...] = ()
    """What is executed in place of the program; see `ContainerSpec`."""
    lane: Lane | None = None

    @property
    def labels(self) -> dict[str, str]:
        """The labels by which a node, and its reaper, know their containers."""
        role, home = {"sbx.role": self.role} if self.role else {}, self.home
        return role | {
            "sbx.topology": home.topology,
            "sbx.site": home.site,
            "sbx.node": home.node,
            "sbx.id": self.task_id,
            "sbx.attempt": str(self.attempt),
            **({"sbx.base": home.base} if home.base else {}),
            **({"sbx.share": home.share} if home.share else {}),
        }


def container_spec(module: Module, frame: Frame, ceiling: Ceiling) -> ContainerSpec:
    """Return the container of one run: the module's wishes, never more than the ceiling."""
    memory, cpus = resources(module, ceiling)
    allowed = (device for device in module.devices if device in ceiling.devices)
    return ContainerSpec(
        name=frame.name,
        image=module.image,
        command=frame.command,
        env=frame.env,
        labels=frame.labels | {"sbx.module": module.name},
        work=frame.work,
        wrapper=frame.wrapper,
        lane=frame.lane,
        mounts=(*(resolve_mount(text, ceiling) for text in module.mounts), *frame.doors),
        memory=memory,
        cpus=cpus,
        pids=min(module.limits.pids, ceiling.pids),
        user=ceiling.user or module.user,
        read_only=module.read_only or ceiling.read_only,
        network=module.network if module.network in ceiling.networks else "",
        devices=tuple(dict.fromkeys((*allowed, *frame.home.devices))),
    )


def resolve_mount(text: str, ceiling: Ceiling) -> Mount:
    """Return the directory of the host that a topology's mount means; see `parse_mount`."""
    name, path, target, writable = parse_mount(text)
    root = ceiling.roots.get(name)
    if root is None:
        raise NotPermitted(f"mount {text!r}: the operator names no root {name!r} (--mount-root)")
    source = os.path.normpath(f"{root.path}/{path}")
    return Mount(source=source, target=target, writable=writable and root.writable, root=root.path)


def parse_mount(text: str) -> tuple[str, str, str, bool]:
    """Split `root:relative/path:/target[:rw]` into root, path, target and whether it is writable.

    Raises NotPermitted for a path that leaves its root or a target that is not absolute.
    """
    parts = text.split(":")
    writable = len(parts) == 4 and parts[3] == "rw"  # noqa: PLR2004 - root, path, target, mode
    if len(parts) not in (3, 4) or (len(parts) == 4 and parts[3] not in ("rw", "ro")):  # noqa: PLR2004
        raise NotPermitted(f"mount {text!r} is not `root:relative/path:/target[:rw]`")
    root, path, target = parts[:3]
    if "\0" in text or path.startswith("/") or ".." in path.split("/"):
        raise NotPermitted(f"mount {text!r}: the path must stay below its root")
    if not target.startswith("/") or ".." in target.split("/") or target.rstrip("/") == "":
        raise NotPermitted(f"mount {text!r}: the target must be an absolute path and not `/`")
    return root, path, target, writable


def check_ceiling(topology: Topology, ceiling: Ceiling) -> None:
    """Raise NotPermitted, naming module and wish, if the topology asks for too much."""
    for module in topology.modules.values():
        for wish, allowed in _wishes(module, ceiling):
            if not allowed:
                raise NotPermitted(
                    f"module {module.name!r}: {wish}, which this node does not allow"
                )


def _wishes(module: Module, ceiling: Ceiling) -> list[tuple[str, bool]]:
    limits = module.limits
    container = module.launch is not Launch.FUNCTION
    wishes = [
        (f"{_rooms(module)} (most {ceiling.slots})", module.slots + module.warm <= ceiling.slots),
        (f"{limits.pids} pids (most {ceiling.pids})", limits.pids <= ceiling.pids),
        (f"image {module.image!r}", not container or _image_allowed(module.image, ceiling)),
        (f"network {module.network!r}", not module.network or module.network in ceiling.networks),
        ("no memory limit", not (container and ceiling.require_memory) or bool(limits.memory)),
    ]
    if ceiling.memory is not None:
        wishes.append((f"memory {limits.memory}", (limits.memory or 0) <= ceiling.memory))
    if ceiling.cpus is not None:
        wishes.append((f"{limits.cpus} cpus", (limits.cpus or 0) <= ceiling.cpus))
    if ceiling.gpus is not None:
        wishes.append((f"{limits.gpus} gpus", limits.gpus <= ceiling.gpus))
    wishes += [(f"device {device!r}", device in ceiling.devices) for device in module.devices]
    for text in module.mounts:
        name, _, _, writable = parse_mount(text)
        root = ceiling.roots.get(name)
        wishes.append((f"mount root {name!r} (see --mount-root)", root is not None))
        wishes.append((f"writable mount {text!r}", not writable or bool(root and root.writable)))
    return wishes


def _rooms(module: Module) -> str:
    warm = f" and {module.warm} warm containers" if module.warm else ""
    return f"{module.slots} slots{warm}"


def _image_allowed(image: str, ceiling: Ceiling) -> bool:
    return not ceiling.images or any(image.startswith(prefix) for prefix in ceiling.images)


def resources(module: Module, ceiling: Ceiling) -> tuple[int | None, float | None]:
    """Return memory and cpus of a module's container: its wish, bounded by the ceiling."""
    if ceiling.unlimited:
        return None, None
    memories = [m for m in (module.limits.memory, ceiling.memory) if m is not None]
    cpus = [c for c in (module.limits.cpus, ceiling.cpus) if c is not None]
    return (int(min(memories)) if memories else None), (min(cpus) if cpus else None)
