"""Which system calls a container of the `oci` runtime may make: seccomp.json, for this machine.

The list is made by deploy/seccomp_profile.py, which says of what. To compile it takes as long as
the rest of a container's start, so libseccomp does it once and crun gets the finished filter.
"""

import base64
import ctypes
import ctypes.util
import os
import platform
from functools import cache
from importlib import resources

import msgspec

_PACKAGE = "scalebox_actors.runtimes"
_FILE = "seccomp.json"
ALLOW, ERRNO = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"
MACHINES = {
    "x86_64": ("amd64", ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32")),
    "aarch64": ("arm64", ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM")),
}
"""Of the machines we know: the word for it in the list, and all architectures that it executes."""
_TOKENS = {
    "SCMP_ARCH_X86_64": 0xC000003E,
    "SCMP_ARCH_X86": 0x40000003,
    "SCMP_ARCH_X32": 0x4000003E,
    "SCMP_ARCH_AARCH64": 0xC00000B7,
    "SCMP_ARCH_ARM": 0x40000028,
}
_OPERATORS = {"SCMP_CMP_NE": 1, "SCMP_CMP_EQ": 4, "SCMP_CMP_MASKED_EQ": 7}
_ACT_ALLOW, _ACT_ERRNO = 0x7FFF0000, 0x00050000
_OPTIMIZE, _AS_A_TREE = 8, 2
_EEXIST = 17
_EPERM = 1


class Argument(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A condition on one argument of a system call."""

    index: int
    value: int
    value_two: int = 0
    op: str


class Rule(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What is to happen at some system calls."""

    names: tuple[str, ...]
    action: str
    errno_ret: int | None = None
    args: tuple[Argument, ...] = ()


class Profile(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A whole filter, as a container's configuration has it."""

    default_action: str = ERRNO
    default_errno_ret: int
    architectures: tuple[str, ...]
    syscalls: tuple[Rule, ...]


class _Listed(msgspec.Struct, frozen=True, rename="camel"):
    default_errno_ret: int
    allowed: tuple[str, ...]
    arches: dict[str, tuple[str, ...]]
    rules: tuple[Rule, ...]


@cache
def profile(machine: str = "") -> Profile | None:
    """Return the profile of a machine, this one unless told; None for one that we do not know."""
    known = MACHINES.get(machine or platform.machine())
    if known is None:
        return None
    text = resources.files(_PACKAGE).joinpath(_FILE).read_bytes()
    listed = msgspec.json.decode(text, type=_Listed)
    word, architectures = known
    allowed = Rule(names=(*listed.allowed, *listed.arches.get(word, ())), action=ALLOW)
    return Profile(
        default_errno_ret=listed.default_errno_ret,
        architectures=architectures,
        syscalls=(allowed, *listed.rules),
    )


@cache
def compiled() -> str:
    """Return the filter of this machine in base64; empty where libseccomp cannot be had. Slow."""
    found, name = profile(), ctypes.util.find_library("seccomp") or "libseccomp.so.2"
    try:
        library = ctypes.CDLL(name)
        return base64.b64encode(_compiled(library, found)).decode() if found else ""
    except (OSError, AttributeError):
        return ""


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


def _compiled(library: ctypes.CDLL, wanted: Profile) -> bytes:
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(_action(ERRNO, wanted.default_errno_ret)))
    if not context:
        raise OSError("seccomp_init")
    try:
        # The machine's own architecture is there already; libseccomp says so and goes on.
        for architecture in wanted.architectures:
            answer = library.seccomp_arch_add(context, ctypes.c_uint32(_TOKENS[architecture]))
            _check(answer, -_EEXIST)
        library.seccomp_attr_set(context, _OPTIMIZE, ctypes.c_uint32(_AS_A_TREE))
        for rule in wanted.syscalls:
            _add(library, context, rule)
        file = os.memfd_create("seccomp")
        try:
            _check(library.seccomp_export_bpf(context, file))
            return os.pread(file, 1 << 20, 0)
        finally:
            os.close(file)
    finally:
        library.seccomp_release(context)


def _add(library: ctypes.CDLL, context: ctypes.c_void_p, rule: Rule) -> None:
    conditions = [_Comparison(a.index, _OPERATORS[a.op], a.value, a.value_two) for a in rule.args]
    array = (_Comparison * len(conditions))(*conditions)
    action = ctypes.c_uint32(_action(rule.action, rule.errno_ret))
    for name in rule.names:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number == -1:
            continue  # this libseccomp does not know it: refused, as everything unknown is
        answer = library.seccomp_rule_add_array(context, action, number, len(conditions), array)
        _check(answer, -_EEXIST)


def _action(word: str, errno: int | None) -> int:
    return _ACT_ALLOW if word == ALLOW else _ACT_ERRNO | (_EPERM if errno is None else errno)


def _check(answer: int, *fine: int) -> None:
    if answer != 0 and answer not in fine:
        raise OSError(-answer, "libseccomp")
