"""What `doctor` has found out about an engine and its host: what advice is drawn from. Pure."""

import msgspec


class EngineFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a container engine tells of itself; None is what it does not tell."""

    host: str
    name: str
    """`docker` or `podman`."""
    version: str = ""
    runtimes: tuple[str, ...] = ()
    default_runtime: str = ""
    live_restore: bool | None = None
    cgroup_driver: str = ""
    cgroup_version: str = ""
    storage_driver: str = ""
    log_drivers: tuple[str, ...] = ()
    log_driver: str = ""
    """Which of them we use."""
    data_root: str = ""
    rootless: bool = False
    unlimited: tuple[str, ...] = ()
    """What the kernel cannot limit for it: memory, cpus, pids."""
    usage_fault: str = ""
    """Why containers cannot be measured; empty if they can."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A directory, and the disk below it."""

    path: str
    kind: str = ""
    """Of the file system: `ext4`, `tmpfs`, …"""
    device: int = 0
    free: int = 0
    sync: float | None = None
    """Seconds that writing 4 KiB through to the disk takes; None: it could not be tried."""


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the host itself."""

    uid: int
    cgroups: str
    """`v1`, `v2`, `hybrid` or `none`."""
    open_files: int
    work: Place
    store: Place
    data: Place | None = None
    """The engine's, where it can be looked at."""
    engine_cgroups: str = ""
    """As `cgroups`, but as the engine sees it, which may have mounts of its own; empty: unknown."""
    clock: bool | None = None
    """Whether something keeps it right; None: not known."""
    uvloop: str = ""
    nats_server: str = ""
    nats_oldest: str = ""
    gpus: tuple[int, ...] = ()
    machine: str = "x86_64"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that advice is drawn from."""

    host: HostFacts
    runtime: str | None = None
    """The one that was asked for."""
    engine: EngineFacts | None = None
    engine_fault: str = ""
    oci: str = ""
    """What starts containers without a daemon, where that is the runtime of a node."""
    oci_fault: str = ""
    """Why it cannot."""
