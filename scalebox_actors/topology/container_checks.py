"""What a module may ask of its container, as far as a file can tell; the ceiling comes later.

Nothing here opens a path: mounts are `root:relative/path` and only a node knows its roots.
"""

import posixpath
import re
from collections.abc import Iterator, Sequence

from scalebox_actors import limits
from scalebox_actors.errors import NotPermitted
from scalebox_actors.names import is_name
from scalebox_actors.spec import parse_mount
from scalebox_actors.topology.findings import Finding, Path, between, error, warning
from scalebox_actors.topology.merge import CONTAINER_ONLY
from scalebox_actors.topology.model import Module
from scalebox_actors.topology.quantity import show_size
from scalebox_actors.topology.reference import image_fault
from scalebox_actors.topology.wording import listed, shown

CPUS_MOST = 4096
_PEBIBYTE = 2**50

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_USER = re.compile(
    r"([a-z_][a-z0-9_.-]{0,31}|[0-9]{1,10})(:([a-z_][a-z0-9_.-]{0,31}|[0-9]{1,10}))?"
)
_NETWORK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_DEVICE = re.compile(r"/dev/[A-Za-z0-9_./:-]{1,200}")
_ENGINE_SOCKETS = frozenset(
    ("docker.sock", "docker.sock.raw", "podman.sock", "containerd.sock", "crio.sock")
)
_TAKEN = ("/proc", "/sys", "/dev", "/work", "/sbx")
_LOADER_NAMES = frozenset(("LD_PRELOAD", "LD_AUDIT", "LD_LIBRARY_PATH"))
_OURS = re.compile(
    r"SBX_.*|PLAT_.*|WORK_DIR|TASK_ID|APP_ID|MODULE_(ID|NAME)|FROM_(MODULE|IP)|PGHOST|AUTH_TOKEN"
)
_SECRET_NAME = re.compile(
    r"(^|_)(PASS(WORD|WD|PHRASE)?|SECRET|TOKEN|CREDENTIALS?|(API|ACCESS|PRIVATE|SECRET)_?KEY)(_|$)",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{20}"
    r"|\bxox[abpr]-[0-9A-Za-z-]{10}|\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.|://[^/\s:@]{1,64}:[^/\s@]{1,128}@"
)


def check_container(at: Path, module: Module) -> Iterator[Finding]:
    """Check everything of a module that becomes part of a container."""
    if module.function:
        yield from _useless(at, module)
    if module.image:
        yield from _image((*at, "image"), module.image)
    yield from _command((*at, "command"), module)
    yield from _limits((*at, "limits"), module)
    yield from _env((*at, "env"), module)
    yield from _mounts((*at, "mounts"), module.mounts)
    yield from _access(at, module)


def _useless(at: Path, module: Module) -> Iterator[Finding]:
    empty = Module(name=module.name)
    for field in CONTAINER_ONLY:
        if field != "image" and getattr(module, field) != getattr(empty, field):
            yield warning((*at, field), f"`{field}` has no effect on a function", at_key=True)


def _image(at: Path, image: str) -> Iterator[Finding]:
    fault = image_fault(image)
    if fault:
        yield error(at, f"{shown(image)} is no image: {fault}")


def _command(at: Path, module: Module) -> Iterator[Finding]:
    yield from _arguments(at, module.command)
    if module.args is not None:
        yield from _arguments((*at[:-1], "args"), module.args)


def _arguments(at: Path, arguments: Sequence[str]) -> Iterator[Finding]:
    field = at[-1]
    if len(arguments) > limits.COMMAND_ARGUMENTS:
        most = limits.COMMAND_ARGUMENTS
        yield error(at, f"`{field}` has {len(arguments)} items; at most {most} are allowed")
        return
    for index, argument in enumerate(arguments):
        if "\0" in argument:
            yield error((*at, index), f"item {index + 1} of `{field}` has a NUL character")
        elif len(argument.encode()) > limits.ARGUMENT_BYTES:
            most = limits.ARGUMENT_BYTES
            yield error((*at, index), f"item {index + 1} of `{field}` is over {most} bytes")
    if field == "command" and arguments and not arguments[0]:
        yield error((*at, 0), "the first item of `command` is the program and may not be empty")


def _limits(at: Path, module: Module) -> Iterator[Finding]:
    wish = module.limits
    if wish.memory is not None and not limits.MEMORY_MINIMUM <= wish.memory <= _PEBIBYTE:
        yield error((*at, "memory"), between("memory", wish.memory, "6MiB", "1024TiB", show_size))
    if wish.cpus is not None and not limits.CPUS_MINIMUM <= wish.cpus <= CPUS_MOST:
        yield error((*at, "cpus"), between("cpus", wish.cpus, limits.CPUS_MINIMUM, CPUS_MOST))
    if not 1 <= wish.pids <= limits.PIDS_CEILING:
        yield error((*at, "pids"), between("pids", wish.pids, 1, limits.PIDS_CEILING))


def _env(at: Path, module: Module) -> Iterator[Finding]:
    if len(module.env) > limits.ENV_VARIABLES:
        count, most = len(module.env), limits.ENV_VARIABLES
        yield error(at, f"{count} variables in `env`; at most {most} are allowed")
        return
    for name, value in module.env.items():
        where = (*at, name)
        if not _ENV_NAME.fullmatch(name) or len(name) > limits.ENV_NAME_LENGTH:
            rule = f"letters, digits and `_`, no digit first, at most {limits.ENV_NAME_LENGTH}"
            yield error(where, f"{shown(name)} is no variable's name: {rule}", at_key=True)
        elif "\0" in value:
            yield error(where, f"the value of {shown(name)} has a NUL character")
        elif len(name) + 1 + len(value.encode()) > limits.ARGUMENT_BYTES:
            most = limits.ARGUMENT_BYTES
            yield error(where, f"the variable {shown(name)} is over {most} bytes with its name")
        else:
            yield from _doubtful(where, name, value)


def _doubtful(at: Path, name: str, value: str) -> Iterator[Finding]:
    if name in _LOADER_NAMES:
        yield warning(
            at, f"`{name}` changes which code every program of the image runs", at_key=True
        )
    elif _OURS.fullmatch(name):
        yield warning(
            at, f"`{name}` is set for every run; this value may be overridden", at_key=True
        )
    elif value and (_SECRET_NAME.search(name) or _SECRET_VALUE.search(value)):
        yield warning(
            at,
            f"the value of {shown(name)} looks like a secret; everybody who sees the topology "
            "or the container sees it",
            at_key=True,
        )


def _mounts(at: Path, mounts: Sequence[str]) -> Iterator[Finding]:
    if len(mounts) > limits.MOUNTS_PER_MODULE:
        most = limits.MOUNTS_PER_MODULE
        yield error(at, f"{len(mounts)} mounts; at most {most} are allowed")
        return
    targets: set[str] = set()
    for index, text in enumerate(mounts):
        where = (*at, index)
        fault = _mount_fault(text)
        if fault:
            yield error(where, fault)
            continue
        target = _normal(text.split(":")[2])
        if target in targets:
            yield error(where, f"mount {shown(text)}: {shown(target)} is mounted twice")
        targets.add(target)


def _mount_fault(text: str) -> str:
    parts = {part.casefold() for part in re.split(r"[:/\\]", text)}
    if parts & _ENGINE_SOCKETS:
        return f"mount {shown(text)}: the socket of a container engine is never mounted"
    if not text.isprintable():
        return f"mount {shown(text)} has characters that cannot be shown"
    try:
        root, path, target, _ = parse_mount(text)
    except NotPermitted:
        return f"mount {shown(text)} {_mount_reason(text)}"
    if not is_name(root):
        return f"mount {shown(text)}: {shown(root)} is not the name of a root"
    if not path:
        return f"mount {shown(text)}: the path is empty; write `.` for the whole root"
    return _target_fault(text, _normal(target))


def _target_fault(text: str, target: str) -> str:
    under = any(target == taken or target.startswith(taken + "/") for taken in _TAKEN)
    if target == "/" or under:
        return f"mount {shown(text)}: nothing can be mounted at {shown(target)}"
    return ""


def _mount_reason(text: str) -> str:
    form = "is not `root:relative/path:/target[:rw]`"
    if text.startswith(("/", ".", "~")):
        return f"{form}: the operator of a node names the roots, see --mount-root"
    if ".." in re.split(r"[:/]", text):
        return "may not have `..`"
    return form


def _normal(target: str) -> str:
    return "/" + posixpath.normpath(target).strip("/")


def _access(at: Path, module: Module) -> Iterator[Finding]:
    yield from _user((*at, "user"), module)
    if module.network in ("host", "none") or module.network.startswith(("container:", "ns:")):
        fault = "leave `network` out" if module.network == "none" else "that network is never given"
        yield error((*at, "network"), f"network {shown(module.network)}: {fault}")
    elif module.network and not _NETWORK.fullmatch(module.network):
        yield error((*at, "network"), f"{shown(module.network)} is no network's name")
    if len(module.devices) > limits.DEVICES_PER_MODULE:
        most = limits.DEVICES_PER_MODULE
        yield error((*at, "devices"), f"{len(module.devices)} devices; at most {most} are allowed")
        return
    for index, device in enumerate(module.devices):
        if not _DEVICE.fullmatch(device) or ".." in device.split("/"):
            yield error((*at, "devices", index), f"{shown(device)} is no device below `/dev`")


def _user(at: Path, module: Module) -> Iterator[Finding]:
    if not module.user:
        return
    if not _USER.fullmatch(module.user):
        yield error(
            at, f"user {shown(module.user)} is not `name`, `uid`, `name:group` or `uid:gid`"
        )
        return
    name, _, group = module.user.partition(":")
    too_large = [part for part in (name, group) if part.isdigit() and int(part) >= 2**31]
    if too_large:
        yield error(at, f"user {shown(module.user)}: {listed(too_large)} is too large for an id")
    elif name == "root" or (name.isdigit() and int(name) == 0):
        yield warning(
            at, "the program runs as root in its container; mounts written `rw` are root's"
        )
