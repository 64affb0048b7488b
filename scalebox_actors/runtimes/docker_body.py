"""The body of a create request: a pure function of the spec and of what the engine can do."""

import json

import msgspec

from scalebox_actors.spec import TMP_BYTES, ContainerSpec

WORK = "/work"
LOG_DRIVERS = ("local", "json-file", "k8s-file")
"""In the order in which we like them; all are bounded and can be read after the exit."""

DENIED = (
    "acct add_key bpf clock_adjtime clock_settime create_module delete_module finit_module "
    "init_module kexec_file_load kexec_load keyctl lookup_dcookie mount move_mount move_pages "
    "name_to_handle_at open_by_handle_at open_tree perf_event_open personality pivot_root ptrace "
    "quotactl reboot request_key setns settimeofday swapoff swapon sysfs umount umount2 unshare "
    "userfaultfd vmsplice fsopen fsconfig fsmount fspick iopl ioperm"
)
"""The operator's alternative to the engine's seccomp profile: cheaper, and allows the rest."""


class Traits(msgspec.Struct, frozen=True, kw_only=True):
    """What we make use of in an engine, as it told when we met it."""

    runtime: str = ""
    """`crun` if the engine lists it; empty: its default."""
    log_driver: str = ""
    deny_list: bool = False
    """The operator prefers the short seccomp deny list to the engine's profile (x86-64 only)."""
    podman: bool = False


class Program(msgspec.Struct, frozen=True, rename="pascal"):
    """What an image executes by itself."""

    entrypoint: list[str] | None = None
    cmd: list[str] | None = None


_NOTHING = Program()


def create_body(
    spec: ContainerSpec, traits: Traits, program: Program = _NOTHING
) -> dict[str, object]:
    """Return the request that makes the hardened container of `spec`.

    `program` is asked for only where the spec has a wrapper, which takes the entry point's place.
    """
    body: dict[str, object] = {
        "Image": spec.image,
        "WorkingDir": WORK,
        "Env": [f"{name}={value}" for name, value in spec.env.items()],
        "Labels": dict(spec.labels),
        "HostConfig": _host(spec, traits),
    }
    if spec.command:
        body["Cmd"] = list(spec.command)
    if spec.wrapper:
        body["Entrypoint"] = [*spec.wrapper, *(program.entrypoint or ())]
        body["Cmd"] = list(spec.command or program.cmd or ())
    if spec.user:
        body["User"] = spec.user
    if not spec.network:
        # Beside mode `none`: spares dockerd two executions of itself, half of its CPU time.
        body["NetworkDisabled"] = True
    return body


def _host(spec: ContainerSpec, traits: Traits) -> dict[str, object]:
    host: dict[str, object] = {
        "NetworkMode": spec.network or "none",
        "IpcMode": "private",
        # As process 1 a program ignores a TERM that it has no handler for.
        "Init": True,
        # The exited container is the log: it is removed only after the commit.
        "AutoRemove": False,
        "RestartPolicy": {"Name": "no"},
        "Privileged": False,
        "CapDrop": ["ALL"],
        "SecurityOpt": _security(traits),
        "PidsLimit": spec.pids,
        "Ulimits": [{"Name": "nofile", "Soft": spec.open_files, "Hard": spec.open_files}],
        "Mounts": _mounts(spec),
    }
    if spec.read_only:
        host["ReadonlyRootfs"] = True
        host["Tmpfs"] = {"/tmp": f"size={TMP_BYTES},mode=1777,noexec,nosuid,nodev"}  # noqa: S108
    if spec.memory is not None:
        host["Memory"] = host["MemorySwap"] = spec.memory
    if spec.cpus is not None:
        host["NanoCpus"] = int(spec.cpus * 1_000_000_000)
    if spec.devices:
        host["Devices"] = [
            {"PathOnHost": path, "PathInContainer": path, "CgroupPermissions": "rwm"}
            for path in spec.devices
        ]
    if traits.runtime:
        host["Runtime"] = traits.runtime
    if traits.log_driver:
        host["LogConfig"] = _log_config(traits.log_driver, spec.log_bytes)
    return host


def _mounts(spec: ContainerSpec) -> list[dict[str, object]]:
    # `Mounts`, since `Binds` makes a source that is missing, as root, instead of refusing it.
    work: dict[str, object] = {"Type": "bind", "Source": spec.work, "Target": WORK}
    return [
        work,
        *(
            {"Type": "bind", "Source": m.source, "Target": m.target, "ReadOnly": not m.writable}
            for m in spec.mounts
        ),
    ]


def _security(traits: Traits) -> list[str]:
    options = ["no-new-privileges"]
    if traits.deny_list:
        profile = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": []}],
            "syscalls": [{"names": DENIED.split(), "action": "SCMP_ACT_ERRNO"}],
        }
        options.append("seccomp=" + json.dumps(profile))
    return options


def _log_config(driver: str, size: int) -> dict[str, object]:
    config = {"max-size": str(size)}
    if driver != "k8s-file":
        config["max-file"] = "1"
    if driver == "local":
        config["compress"] = "false"  # one file that is compressed does not start
    return {"Type": driver, "Config": config}
