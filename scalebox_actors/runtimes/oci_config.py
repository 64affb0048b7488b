"""The configuration of a container for crun or runc: a pure function of spec, image and host."""

import msgspec

from scalebox_actors.runtimes.oci_images import Image
from scalebox_actors.runtimes.oci_seccomp import ALLOW, Profile
from scalebox_actors.runtimes.oci_users import Identity
from scalebox_actors.runtimes.shepherd_container import INIT
from scalebox_actors.spec import TMP_BYTES, ContainerSpec

WORK = "/work"
HOST_NETWORK = "host"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHM = "/dev/shm"  # noqa: S108 - inside the container
SHM_BYTES = 64 * 1024 * 1024
HOSTNAME = 63
PERIOD = 100_000
"""Microseconds by which a limit of CPUs is counted."""
CAPABILITIES = ("bounding", "effective", "inheritable", "permitted", "ambient")
MASKED = (
    *("/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys"),
    *("/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list"),
    *("/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware"),
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
BPF = "run.oci.seccomp_bpf_data"


class Device(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A device of the host, as a container is to have it."""

    path: str
    type: str
    major: int
    minor: int
    file_mode: int
    uid: int
    gid: int


class Traits(msgspec.Struct, frozen=True, kw_only=True):
    """What this host has for containers, as it was found out once."""

    runtime: tuple[str, ...]
    """The program crun or runc, with options."""
    init: str
    """A static init: tini or catatonit."""
    seccomp: Profile | None
    filter: str = ""
    """The same compiled, for a crun that takes it so; empty: it has to compile the profile."""
    names: tuple[str, ...] = ()
    """Files of the host by which a container in its network finds other hosts."""
    recursive: bool = False
    """Whether what is mounted below a read-only mount can be made read-only, too."""
    rootless: bool = False
    """Whether this user is the only one that containers can have, and there are no groups."""


class Guest(msgspec.Struct, frozen=True, kw_only=True):
    """What was looked up for one container."""

    image: Image
    identity: Identity = Identity()
    devices: tuple[Device, ...] = ()


def container_config(spec: ContainerSpec, guest: Guest, traits: Traits) -> dict[str, object]:
    """Return the hardened container of `spec`; the shepherd adds where its root and group are."""
    config: dict[str, object] = {
        "ociVersion": "1.0.0",
        "process": _process(spec, guest, traits),
        "root": {"path": "", "readonly": spec.read_only},
        "hostname": spec.name[-HOSTNAME:].strip("-."),
        "mounts": _mounts(spec, traits),
        "linux": _linux(spec, guest, traits),
    }
    if traits.filter:
        config["annotations"] = {BPF: traits.filter}
    return config


def arguments(spec: ContainerSpec, image: Image) -> tuple[str, ...]:
    """Return what the container executes: as with docker, the spec's command is for the image's."""
    return (*spec.wrapper, *image.entrypoint, *(spec.command or image.command))


def _process(spec: ContainerSpec, guest: Guest, traits: Traits) -> dict[str, object]:
    who = guest.identity
    groups = () if traits.rootless else who.groups
    return {
        "terminal": False,
        "user": {"uid": who.uid, "gid": who.gid, "additionalGids": list(groups)},
        # As process 1 a program ignores a TERM that it has no handler for.
        "args": [INIT, "--", *arguments(spec, guest.image)],
        "env": environment(spec, guest),
        "cwd": WORK,
        "capabilities": {name: [] for name in CAPABILITIES},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": spec.open_files, "hard": spec.open_files}],
        "noNewPrivileges": True,
    }


def environment(spec: ContainerSpec, guest: Guest) -> list[str]:
    """Return the variables of a container: the spec's over the image's over the usual ones."""
    merged: dict[str, str] = {}
    usual = (PATH, f"HOME={guest.identity.home}")
    own = (f"{name}={value}" for name, value in spec.env.items())
    for text in (*usual, *guest.image.env, *own):
        name, _, value = text.partition("=")
        merged[name] = value
    return [f"{name}={value}" for name, value in merged.items()]


def _linux(spec: ContainerSpec, guest: Guest, traits: Traits) -> dict[str, object]:
    namespaces = ["pid", "ipc", "uts", "mount"]
    if spec.network != HOST_NETWORK:
        namespaces.append("network")
    if traits.rootless:
        namespaces.append("user")
    linux: dict[str, object] = {
        "namespaces": [{"type": name} for name in namespaces],
        "maskedPaths": list(MASKED),
        "readonlyPaths": list(READ_ONLY),
    }
    if traits.rootless:
        linux |= _only_user(guest.identity)
    else:
        linux["resources"] = _resources(spec, guest)
    if guest.devices:
        linux["devices"] = [msgspec.to_builtins(device) for device in guest.devices]
    if traits.filter:
        # Only that there is one: what counts is the filter, which is compiled already.
        linux["seccomp"] = {"defaultAction": ALLOW}
    elif traits.seccomp is not None:
        linux["seccomp"] = msgspec.to_builtins(traits.seccomp)
    return linux


def _only_user(who: Identity) -> dict[str, object]:
    """Let the shepherd's root, who is its user, be the one whom image or module name."""
    return {
        "uidMappings": [{"containerID": who.uid, "hostID": 0, "size": 1}],
        "gidMappings": [{"containerID": who.gid, "hostID": 0, "size": 1}],
    }


def _resources(spec: ContainerSpec, guest: Guest) -> dict[str, object]:
    # Memory is limited in the group around the container's, which outlives it: see shepherd_cgroup.
    devices: list[dict[str, object]] = [{"allow": False, "access": "rwm"}]
    devices += [
        {"allow": True, "type": d.type, "major": d.major, "minor": d.minor, "access": "rwm"}
        for d in guest.devices
    ]
    resources: dict[str, object] = {"pids": {"limit": spec.pids}, "devices": devices}
    if spec.cpus is not None:
        resources["cpu"] = {"quota": max(1000, int(spec.cpus * PERIOD)), "period": PERIOD}
    return resources


def _mounts(spec: ContainerSpec, traits: Traits) -> list[dict[str, object]]:
    mounts = [
        _special("/proc", "proc", "nosuid", "noexec", "nodev"),
        _special("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _special(
            "/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"
        ),
        _special(SHM, "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", f"size={SHM_BYTES}"),
        _special("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        _special("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"),
        _bind(traits.init, INIT, "bind", "ro", "nosuid", "nodev"),
    ]
    if spec.read_only:
        usual = ("nosuid", "noexec", "nodev", "mode=1777", f"size={TMP_BYTES}")
        mounts.append(_special("/tmp", "tmpfs", *usual))  # noqa: S108
    if spec.network == HOST_NETWORK:
        mounts += [_bind(path, path, "bind", "ro", "nosuid", "nodev") for path in traits.names]
    # In the order of their depth, so that none hides another.
    binds = [_bind(spec.work, WORK, "rbind", "rprivate", "nosuid", "nodev")]
    closed = ("ro", "rro") if traits.recursive else ("ro",)
    for mount in spec.mounts:
        access = ("rw",) if mount.writable else closed
        binds.append(
            _bind(mount.source, mount.target, "rbind", "rprivate", "nosuid", "nodev", *access)
        )
    return mounts + sorted(binds, key=lambda bind: str(bind["destination"]).rstrip("/").count("/"))


def _special(target: str, kind: str, *options: str) -> dict[str, object]:
    return {"destination": target, "type": kind, "source": kind, "options": list(options)}


def _bind(source: str, target: str, *options: str) -> dict[str, object]:
    return {"destination": target, "type": "bind", "source": source, "options": list(options)}
