#!/usr/bin/env python3
"""Make scalebox_actors/runtimes/seccomp.json: which system calls a container of `oci` may make.

    seccomp_profile.py >scalebox_actors/runtimes/seccomp.json

It is the default profile of Debian's package golang-github-containers-common (Apache-2.0), as it
is for a container without any capability, less what Docker's default profile refuses such a
container besides: namespaces, mounts, key rings, io_uring and user-space page faults.
"""

import json
import sys
from pathlib import Path

SOURCE = Path("/usr/share/containers/seccomp.json")
REFUSED = (
    "add_key fsconfig fsmount fsopen fspick io_uring_enter io_uring_register io_uring_setup "
    "keyctl mount mount_setattr move_mount open_tree pivot_root reboot request_key setns "
    "sethostname syslog umount umount2 unshare userfaultfd"
)
NAMESPACES = 0x7E020000
"""The flags of `clone` that make a namespace."""
LOOKED_AT = {"clone", "clone3"}
"""Of `clone` the flags are looked at. Those of `clone3` lie in memory: as a call that is not there
(the default answer) it makes the C library take `clone`."""
EPERM = 1


def main() -> None:
    """Print the profile."""
    given = json.loads(SOURCE.read_text())
    refused = set(REFUSED.split())
    plain: set[str] = set()
    rules: list[dict[str, object]] = []
    arches: dict[str, list[str]] = {}
    for rule in given["syscalls"]:
        includes, excludes = rule.get("includes", {}), rule.get("excludes", {})
        if includes.get("caps") or excludes.get("arches"):
            continue
        if includes.get("arches"):
            for arch in includes["arches"]:
                arches.setdefault(arch, []).extend(rule["names"])
        elif rule["action"] == "SCMP_ACT_ALLOW" and not rule.get("args"):
            plain |= set(rule["names"])
        else:
            rules.append(_short(rule))
    masked = {"index": 0, "value": NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    rules += [
        {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [masked]},
        {
            "names": sorted(refused),
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": EPERM,
        },
    ]
    profile = {
        "defaultErrnoRet": given["defaultErrnoRet"],
        "allowed": sorted(plain - refused - LOOKED_AT),
        "arches": {arch: sorted(set(names)) for arch, names in sorted(arches.items())},
        "rules": rules,
    }
    json.dump(profile, sys.stdout, indent=1)
    sys.stdout.write("\n")


def _short(rule: dict[str, object]) -> dict[str, object]:
    return {key: rule[key] for key in ("names", "action", "args", "errnoRet") if rule.get(key)}


if __name__ == "__main__":
    main()
