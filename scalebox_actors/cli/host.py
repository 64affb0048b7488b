"""What the operator of a host allows, and where its runs live: options of `run` and `node`."""

import platform
import re
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

import click
import msgspec

from scalebox_actors.capacity import gpu_devices
from scalebox_actors.cli.memory import memory_base
from scalebox_actors.cli.options import Finite, images_option
from scalebox_actors.cli.room import Sizes, read_size, sized, sizes_of
from scalebox_actors.errors import BadInput, NotPermitted
from scalebox_actors.limits import NAME_LENGTH, SLOTS_PER_NODE
from scalebox_actors.names import check_name, is_name
from scalebox_actors.node import Settings
from scalebox_actors.ports import Runtime
from scalebox_actors.runtimes.choose import KINDS, open_runtime
from scalebox_actors.runtimes.mounts import check_root
from scalebox_actors.spec import Ceiling, Root
from scalebox_actors.topology.model import Launch, Topology
from scalebox_actors.trees import clear_tree

IN_MEMORY = "memory"
F = TypeVar("F", bound=Callable[..., object])


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """The operator's options as they were typed."""

    runtime: str | None = None
    image_store: Path | None = None
    mount_roots: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    max_memory: str | None = None
    max_cpus: float | None = None
    max_gpus: int | None = None
    max_slots: int = SLOTS_PER_NODE
    force_read_only: bool = False
    force_user: str | None = None
    require_memory: bool = False
    unlimited: bool = False
    work: str | None = None
    cluster_data_root: str = ""
    gpu_devices: tuple[str, ...] = ()
    seccomp: str = "engine"
    sizes: Sizes = Sizes()


def operated(function: F) -> F:
    """Give a command the options of an operator."""
    function = sized(function)
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


_OPTIONS: tuple[Callable[[F], F], ...] = (
    click.option(
        "--runtime",
        type=click.Choice(KINDS),
        envvar="SBX_RUNTIME",
        help="Where containers run; the first that answers if not given.  [env SBX_RUNTIME]",
    ),
    images_option,
    click.option(
        "--mount-root",
        "mount_roots",
        metavar="NAME=/DIR[:rw]",
        multiple=True,
        help="Let topologies mount what is below a directory, under this name; repeatable.",
    ),
    click.option("--allow-image", "images", metavar="PREFIX", multiple=True,
                 help="Allow only images whose name begins so; repeatable."),
    click.option("--allow-network", "networks", metavar="NAME", multiple=True,
                 help="Allow containers this network; repeatable. Without it they have none."),
    click.option("--allow-device", "devices", metavar="PATH", multiple=True,
                 help="Allow containers this device; repeatable."),
    click.option("--max-memory", metavar="SIZE", help="The most memory of a container: 4GiB."),
    click.option("--max-cpus", type=Finite(min=0, min_open=True),
                 help="The most CPUs of a container."),
    click.option("--max-gpus", type=click.IntRange(0), help="The most GPUs of a container."),
    click.option("--gpu-devices", metavar="PATH", multiple=True,
                 help="Device files of a GPU, {} for its index; repeatable.  [default: NVIDIA's]"),
    click.option("--seccomp", type=click.Choice(("engine", "deny-list")), default="engine",
                 show_default=True, help="The profile of containers: the engine's own, or a short "
                 "list of what is denied, which is quicker (x86-64)."),
    click.option("--max-slots", type=click.IntRange(1), default=SLOTS_PER_NODE, show_default=True,
                 help="The most slots of a module."),
    click.option("--force-read-only", is_flag=True, help="Make every root file system read-only."),
    click.option("--force-user", metavar="UID[:GID]", help="Run every container as this user."),
    click.option("--require-memory", is_flag=True, help="Refuse modules without a memory limit."),
    click.option("--unlimited", is_flag=True, help="Keep no limits of memory and CPUs: for hosts "
                 "that cannot, like those of `oci` without root."),
    click.option("--work", metavar="DIR", envvar="SBX_WORK",
                 help="Where work directories are made; `memory` for short programs that write "
                      "little.  [env SBX_WORK; default: in the store]"),
    click.option("--cluster-data-root", metavar="DIR", envvar="CLUSTER_DATA_ROOT", default="",
                 help="What programs find in CLUSTER_DATA_ROOT."),
)  # fmt: skip


def ceiling(host: Host) -> Ceiling:
    """Return the ceiling that the operator's options draw; raises BadInput for what is wrong."""
    roots = dict(_root(text) for text in host.mount_roots)
    if len(roots) < len(host.mount_roots):
        raise BadInput("--mount-root: a name is given twice")
    _check_said(host)
    if host.unlimited and (host.max_memory or host.max_cpus or host.require_memory):
        raise BadInput("--unlimited: nothing can be limited beside it")
    return Ceiling(
        images=host.images,
        roots=roots,
        networks=host.networks,
        devices=host.devices,
        memory=read_size("--max-memory", host.max_memory),
        cpus=host.max_cpus,
        gpus=host.max_gpus,
        slots=host.max_slots,
        read_only=host.force_read_only,
        user=host.force_user or "",
        require_memory=host.require_memory,
        unlimited=host.unlimited,
    )


def _check_said(host: Host) -> None:
    """Refuse an empty text, as of a variable that is not set: it would allow or force nothing."""
    given = {
        "--allow-image": host.images,
        "--allow-network": host.networks,
        "--allow-device": host.devices,
        "--force-user": () if host.force_user is None else (host.force_user,),
    }
    for flag, said in given.items():
        if not all(text.strip() for text in said):
            raise BadInput(f"{flag} is empty; leave it out if nothing is meant")


def host_name() -> str:
    """Return this host's name, bent to the grammar of names where it must be."""
    name = re.sub(r"[^a-z0-9_-]", "-", socket.gethostname().partition(".")[0].lower())
    return name[:NAME_LENGTH] if is_name(name[:NAME_LENGTH]) else f"n-{name}"[:NAME_LENGTH]


def settings(host: Host, name: str, base: Path, *, url: str, folder: Path) -> Settings:
    """Return a node's settings; `url` is the server's, `folder` the topology's."""
    return Settings(
        name=check_name("node", name),
        base=base,
        folder=folder,
        ip=address_towards(url),
        cluster_data_root=host.cluster_data_root,
        ceiling=ceiling(host),
        room=host.sizes.room,
        gpu_devices=gpu_devices(host.gpu_devices),
    )


@asynccontextmanager
async def opened_runtime(
    host: Host, topology: Topology, settings: Settings, *, isolated: bool
) -> AsyncIterator[Runtime | None]:
    """Open the runtime that the operator wants; None if the topology has only functions.

    With `isolated`, or under a ceiling, programs run as plain processes only if that was asked.
    """
    if all(module.launch is Launch.FUNCTION for module in topology.modules.values()):
        yield None
        return
    # Its own folder for every node: the shepherd of processes serves one of them.
    state = settings.base / f"shepherd.{topology.name}.{settings.name}"
    bounds = settings.ceiling
    unguarded = Ceiling(slots=bounds.slots, unlimited=bounds.unlimited)
    guarded = isolated or bounds != unguarded
    if host.seccomp == "deny-list" and platform.machine() != "x86_64":
        raise BadInput("--seccomp deny-list: the list is for x86-64 only")
    runtime = await open_runtime(
        host.runtime,
        state=state,
        images=host.image_store,
        isolated=guarded,
        deny_list=host.seccomp == "deny-list",
    )
    try:
        yield runtime
    finally:
        await runtime.close()


@contextmanager
def work_base(host: Host, store: Path, *, ephemeral: bool = False) -> Iterator[Path]:
    """Return where work directories are made; that of an ephemeral run goes with it."""
    if host.work == IN_MEMORY:
        yield memory_base(store)
    elif host.work:
        yield Path(host.work)
    elif not ephemeral:
        yield store / "work"
    else:
        base = Path(tempfile.mkdtemp(prefix="sbx-work-"))
        try:
            yield base
        finally:
            clear_tree(base)


def address_towards(url: str) -> str:
    """Return the address that this host has towards a server; nothing is sent to find it out."""
    host, _, port = url.rpartition("//")[2].rpartition("@")[2].partition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host or "127.0.0.1", int(port) if port.isdigit() else 4222))
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def host_of(given: dict[str, object]) -> Host:
    """Take the operator's options out of all that were typed."""
    sizes = sizes_of(given)
    names = [name for name in Host.__struct_fields__ if name != "sizes"]
    host = msgspec.convert({name: given.pop(name) for name in names}, Host)
    return msgspec.structs.replace(host, sizes=sizes)


def _root(text: str) -> tuple[str, Root]:
    name, equals, rest = text.partition("=")
    path, colon, mode = rest.partition(":")
    if not (equals and is_name(name) and path.startswith("/")) or (colon and mode != "rw"):
        raise BadInput(f"--mount-root {text[:80]!r} is not NAME=/DIR or NAME=/DIR:rw")
    try:
        return name, Root(path=check_root(path), writable=mode == "rw")
    except NotPermitted as error:
        raise BadInput(f"--mount-root {name}={error}") from None
