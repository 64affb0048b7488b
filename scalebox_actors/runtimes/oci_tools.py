"""What the host has for containers without a daemon, and what to install where it lacks it."""

import os
import platform
import re
import shutil
import subprocess

from scalebox_actors.errors import RuntimeUnavailable
from scalebox_actors.limits import ENGINE_CALL
from scalebox_actors.runtimes.oci_config import Traits
from scalebox_actors.runtimes.oci_seccomp import compiled, profile

RUNTIMES = ("crun", "runc")
"""In the order in which we like them."""
INITS = ("tini-static", "docker-init", "catatonit")
PLACES = ("/usr/local/bin", "/usr/bin", "/usr/sbin", "/usr/libexec/podman", "/usr/lib/podman")
NAMES = ("/etc/hosts", "/etc/resolv.conf")
FILTERED = (1, 8)
"""The first crun that was tried with a compiled filter."""
RECURSIVE = (5, 12)
"""The first kernel that can change mounts with all that is below them."""
NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount", "true")
"""Does nothing where a user may have a namespace for users and mounts."""
_VERSION = re.compile(r"(\d+)\.(\d+)")
_ELF_INTERPRETER = 3


def has_runtime() -> bool:
    """Whether this host could run containers at all, before anything is tried."""
    return _first(_runtimes()) is not None


def look_around() -> Traits:
    """Return what this host has; raises RuntimeUnavailable that says what is missing. Blocks."""
    rootless = os.getuid() != 0
    if rootless and (why := _no_user_namespace()):
        raise RuntimeUnavailable(
            f"the runtime `oci` needs root, or a kernel that lets users make namespaces: {why}; as "
            "another user run podman's service and give it as DOCKER_HOST"
        )
    runtime = _first(_runtimes())
    if runtime is None:
        raise RuntimeUnavailable(f"there is no {' and no '.join(_runtimes())}; apt install crun")
    init = next((path for path in map(_which, INITS) if path and is_static(path)), None)
    if init is None:
        raise RuntimeUnavailable("there is no static init for containers; apt install tini")
    seccomp = profile()
    if seccomp is None:
        raise RuntimeUnavailable(f"there is no seccomp profile for {platform.machine()}")
    crun = os.path.basename(runtime) == "crun"  # noqa: PTH119
    groups = "disabled" if rootless else "cgroupfs"
    return Traits(
        runtime=(runtime, *(("--cgroup-manager", groups) if crun else ())),
        init=init,
        seccomp=seccomp,
        filter=compiled() if crun and _version(_said(runtime)) >= FILTERED else "",
        names=tuple(path for path in NAMES if os.path.isfile(path)),  # noqa: PTH113
        recursive=crun and _version(platform.release()) >= RECURSIVE,
        rootless=rootless,
    )


def is_static(path: str) -> bool:
    """Whether a program needs nothing but itself, and so starts in any image."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            head = file.read(64)
            if head[:5] != b"\x7fELF\x02":
                return False
            offset, size = int.from_bytes(head[32:40], "little"), 56
            count = int.from_bytes(head[56:58], "little")
            file.seek(offset)
            headers = file.read(size * count)
    except OSError:
        return False
    kinds = (headers[i : i + 4] for i in range(0, len(headers), size))
    return all(int.from_bytes(kind, "little") != _ELF_INTERPRETER for kind in kinds)


def _runtimes() -> tuple[str, ...]:
    """Return what can start a container as this user."""
    return RUNTIMES if os.getuid() == 0 else RUNTIMES[:1]


def _no_user_namespace() -> str:
    """Return why this user cannot have a user namespace; empty if he can."""
    try:
        done = subprocess.run(NAMESPACE, capture_output=True, check=False, timeout=ENGINE_CALL)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stderr.decode("utf-8", "replace").strip() if done.returncode else ""


def _first(names: tuple[str, ...]) -> str | None:
    return next((path for path in map(_which, names) if path), None)


def _which(name: str) -> str | None:
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *PLACES))
    found = shutil.which(name, path=path)
    return os.path.realpath(found) if found else None


def _said(runtime: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - the program that we found
            [runtime, "--version"], capture_output=True, check=False, timeout=ENGINE_CALL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeUnavailable(f"{runtime} cannot be executed: {error}") from error
    return done.stdout.decode("utf-8", "replace")


def _version(text: str) -> tuple[int, int]:
    found = _VERSION.search(text)
    return (int(found[1]), int(found[2])) if found else (0, 0)
