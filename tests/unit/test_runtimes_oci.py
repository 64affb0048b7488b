"""The pure parts of the runtime `oci`: configurations, filters, users, names, control groups."""

import base64
import json
import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalebox_actors.errors import RuntimeUnavailable
from scalebox_actors.runtimes import oci_tools
from scalebox_actors.runtimes.oci_config import (
    Device,
    Guest,
    Traits,
    arguments,
    container_config,
    environment,
)
from scalebox_actors.runtimes.oci_images import Image, normal
from scalebox_actors.runtimes.oci_seccomp import ALLOW, MACHINES, compiled, profile
from scalebox_actors.runtimes.oci_tools import is_static, look_around
from scalebox_actors.runtimes.oci_users import Identity, UnknownUserError, identity, inside
from scalebox_actors.runtimes.shepherd_cgroup import Group, groups_named
from scalebox_actors.spec import ContainerSpec, Mount

SPEC = ContainerSpec(
    name="sbx-t.m.one",
    image="img",
    command=("a", "b"),
    env={"A": "spec"},
    labels={},
    work="/base/one/1",
)
IMAGE = Image(digest="sha256:0", env=("A=image", "B=image"))
TRAITS = Traits(runtime=("crun",), init="/usr/bin/tini-static", seccomp=profile("x86_64"))
NEVER = {
    *("unshare", "setns", "mount", "umount2", "move_mount", "fsopen", "pivot_root", "keyctl"),
    *("add_key", "bpf", "perf_event_open", "userfaultfd", "kexec_load", "init_module", "reboot"),
    *("io_uring_setup", "open_by_handle_at", "clone3", "swapon", "settimeofday", "chroot"),
}


def configured(spec: ContainerSpec, traits: Traits = TRAITS, **guest: object) -> dict[str, object]:
    """Return a configuration as crun reads it."""
    made = container_config(spec, msgspec.convert({"image": IMAGE, **guest}, Guest), traits)
    decoded: dict[str, object] = json.loads(json.dumps(made))
    return decoded


def part(config: object, *path: str) -> object:
    """Return what lies at a path of a configuration."""
    for step in path:
        assert isinstance(config, dict)
        config = config[step]
    return config


def test_a_container_is_closed_unless_the_spec_says_otherwise() -> None:
    """No capability, no new privileges, no network, bounded; whatever else is asked for."""
    config = configured(SPEC)

    assert part(config, "process", "capabilities") == {
        name: [] for name in ("bounding", "effective", "inheritable", "permitted", "ambient")
    }
    assert part(config, "process", "noNewPrivileges") is True
    assert part(config, "linux", "namespaces") == [
        {"type": name} for name in ("pid", "ipc", "uts", "mount", "network")
    ]
    assert part(config, "linux", "resources", "pids") == {"limit": 256}
    assert part(config, "linux", "resources", "devices") == [{"allow": False, "access": "rwm"}]
    assert part(config, "process", "args") == ["/dev/init", "--", "a", "b"]
    assert part(config, "process", "cwd") == "/work"
    assert part(config, "linux", "seccomp", "defaultAction") == "SCMP_ACT_ERRNO"
    assert part(config, "root", "readonly") is False


def test_what_a_spec_asks_for_is_there() -> None:
    """Read-only root with a place for temporary files, CPUs, a device, the host's network."""
    device = Device(path="/dev/x", type="c", major=1, minor=2, file_mode=0o660, uid=0, gid=44)
    spec = msgspec.structs.replace(SPEC, read_only=True, cpus=0.5, network="host")

    config = configured(spec, devices=(device,))

    assert part(config, "root", "readonly") is True
    assert part(config, "linux", "resources", "cpu") == {"quota": 50_000, "period": 100_000}
    assert {"type": "network"} not in part(config, "linux", "namespaces")  # type: ignore[operator]
    assert part(config, "linux", "devices") == [
        {"path": "/dev/x", "type": "c", "major": 1, "minor": 2,
         "fileMode": 0o660, "uid": 0, "gid": 44}
    ]  # fmt: skip
    mounts = part(config, "mounts")
    assert isinstance(mounts, list)
    temporary = next(m for m in mounts if m["destination"] == "/tmp")
    assert {"nosuid", "noexec", "nodev", "mode=1777"} < set(temporary["options"])


@given(st.lists(st.tuples(st.sampled_from("abc/"), st.booleans()), max_size=6))
def test_mounts_are_in_order_and_never_more_open_than_asked(
    wanted: list[tuple[str, bool]],
) -> None:
    """Outer mounts come first, so that none hides another; only what may be written is writable."""
    mounts = tuple(
        Mount(source=f"/s{n}", target=f"/m/{t * (n + 1)}".rstrip("/"), writable=writable)
        for n, (t, writable) in enumerate(wanted)
    )

    config = configured(msgspec.structs.replace(SPEC, mounts=mounts))

    made = part(config, "mounts")
    assert isinstance(made, list)
    binds = [m for m in made if "rbind" in m["options"]]
    depths = [m["destination"].rstrip("/").count("/") for m in binds]
    assert depths == sorted(depths)
    for mount in mounts:
        found = next(m for m in binds if m["source"] == mount.source)
        assert ("ro" in found["options"]) is not mount.writable
        assert {"nosuid", "nodev"} < set(found["options"])


def test_a_compiled_filter_stands_for_the_profile() -> None:
    """A crun that takes the filter as bytes need not compile it; it must be told of one still."""
    config = configured(SPEC, msgspec.structs.replace(TRAITS, filter="QUFB"))

    assert part(config, "annotations") == {"run.oci.seccomp_bpf_data": "QUFB"}
    assert part(config, "linux", "seccomp") == {"defaultAction": ALLOW}


@pytest.mark.parametrize(
    ("entrypoint", "own", "command", "expected"),
    [
        ((), ("i",), ("c",), ("c",)),
        (("e",), ("i",), (), ("e", "i")),
        (("e",), ("i",), ("c", "d"), ("e", "c", "d")),
        ((), (), (), ()),
    ],
)
def test_what_is_executed(
    entrypoint: tuple[str, ...],
    own: tuple[str, ...],
    command: tuple[str, ...],
    expected: tuple[str, ...],
) -> None:
    """As with docker, a command stands for the image's own and goes to its entrypoint."""
    image = msgspec.structs.replace(IMAGE, entrypoint=entrypoint, command=own)

    assert expected == arguments(msgspec.structs.replace(SPEC, command=command), image)


def test_variables_of_the_spec_go_over_those_of_the_image() -> None:
    """The usual ones come first, then the image's, then the spec's."""
    actual = environment(SPEC, Guest(image=IMAGE, identity=Identity(home="/h")))

    assert actual[1:] == ["HOME=/h", "A=spec", "B=image"]
    assert actual[0].startswith("PATH=/usr/local/sbin:")


@pytest.mark.parametrize("machine", MACHINES)
def test_the_profile_refuses_what_no_container_needs(machine: str) -> None:
    """Namespaces, mounts, keys and the like are allowed by no rule, on no machine."""
    found = profile(machine)
    assert found is not None

    always = {
        name
        for rule in found.syscalls
        if rule.action == ALLOW and not rule.args
        for name in rule.names
    }
    assert NEVER & always == set()
    assert {"read", "execve", "clone", "futex", "openat"} - always == {"clone"}
    assert found.default_action != ALLOW


def test_an_unknown_machine_has_no_profile() -> None:
    """Nothing is made up for a machine that nobody has looked at."""
    assert profile("pdp11") is None


def test_the_filter_is_a_program() -> None:
    """Compiled it is whole instructions of eight bytes, or nothing where there is no libseccomp."""
    data = base64.b64decode(compiled())

    assert len(data) % 8 == 0


USERS = "root:x:0:0::/root:/bin/sh\nbad line\nme:x:1000:1001::/home/me:/bin/sh\nodd:x:a:b::/:/x\n"
GROUPS = "root:x:0:\nstaff:x:1001:\nextra:x:1002:other,me\nmore:x:1003:me\n"


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", Identity(0, 0, (), "/root")),
        ("me", Identity(1000, 1001, (1002, 1003), "/home/me")),
        ("1000", Identity(1000, 1001, (1002, 1003), "/home/me")),
        ("me:staff", Identity(1000, 1001, (), "/home/me")),
        ("me:1002", Identity(1000, 1002, (), "/home/me")),
        ("4000:5000", Identity(4000, 5000, (), "/")),
        ("4000", Identity(4000, 0, (), "/")),
        ("nobody", None),
        ("me:nobody", None),
        ("odd", None),
        ("-1", None),
        ("4294967295", None),
        pytest.param("9" * 5000, None, id="no-number"),
        pytest.param("0" * 5000, None, id="no-number-either"),
    ],
)
def test_who_a_user_is(tmp_path: Path, user: str, expected: Identity | None) -> None:
    """Names are the image's; numbers need not be known to it; the rest is refused."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(USERS)
    (tmp_path / "etc/group").write_text(GROUPS)

    if expected is None:
        with pytest.raises(UnknownUserError):
            identity(tmp_path, user)
    else:
        assert identity(tmp_path, user) == expected


def test_an_image_cannot_make_us_read_the_hosts_files(tmp_path: Path) -> None:
    """Links of an image lead nowhere but into the image, and pipes are not waited for."""
    rootfs = tmp_path / "rootfs"
    (rootfs / "real").mkdir(parents=True)
    (rootfs / "etc").symlink_to("/real")
    (rootfs / "real/passwd").symlink_to("../../../../../../data")
    (rootfs / "data").write_text("me:x:5:6::/:/x\n")
    (rootfs / "loop").symlink_to("loop")
    (rootfs / "real/group").symlink_to("pipe")
    (tmp_path / "data").write_text("me:x:0:0::/:/x\n")

    assert inside(rootfs, "etc/passwd") == rootfs / "data"
    assert inside(rootfs, "loop/x") == rootfs / "absent"
    assert identity(rootfs, "me") == Identity(5, 6, (), "/")


@pytest.mark.parametrize("name", ["a" * 300, "a/" * 3000, "../" * 1400])
def test_what_no_file_can_be_called_is_not_there(tmp_path: Path, name: str) -> None:
    """A link of an image may lead to a name that no file system takes."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/group").write_text("root:x:" + "9" * 5000 + ":\n")
    for depth in range(3):
        (tmp_path / f"etc/passwd{depth}").symlink_to(f"x/{name[:3000]}/passwd{depth + 1}")
    (tmp_path / "etc/passwd").symlink_to(name[:4000])

    assert identity(tmp_path, "5:6") == Identity(5, 6, (), "/")


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("a/b", ("a/b:latest", "")),
        ("a/b:1", ("a/b:1", "")),
        ("host:5000/a", ("host:5000/a:latest", "")),
        ("docker.io/library/busybox", ("busybox:latest", "")),
        ("a@sha256:12", ("a:latest", "sha256:12")),
        ("sha256:12", ("", "sha256:12")),
    ],
)
def test_names_of_images(reference: str, expected: tuple[str, str]) -> None:
    """What a topology calls an image and what was imported meet under one full name."""
    assert expected == normal(reference)


def test_usage_by_control_groups_of_version_2(tmp_path: Path) -> None:
    """What the group around a container has used, whatever became of the container's own."""
    (tmp_path / "cgroup.controllers").write_text("cpu io memory pids\n")
    (tmp_path / "cgroup.subtree_control").touch()
    (tmp_path / "sbx").mkdir()
    (tmp_path / "sbx/cgroup.subtree_control").touch()
    place = tmp_path / "sbx/tag-1"
    place.mkdir()
    for name in ("memory.max", "memory.swap.max"):
        (place / name).touch()
    (place / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
    (place / "memory.peak").write_text("4096\n")
    (place / "memory.events").write_text("low 0\noom 1\noom_kill 2\n")
    (place / "io.stat").write_text("8:0 rbytes=10 wbytes=20 rios=1\n8:16 rbytes=1 wbytes=2\n")

    group = Group("tag-1", str(tmp_path))
    group.make(64)

    assert group.usage() == {
        "cpu_seconds": 2.5,
        "memory_peak": 4096,
        "io_read_bytes": 11,
        "io_write_bytes": 22,
        "out_of_memory": True,
    }
    assert (place / "memory.max").read_text() == "64"
    assert (place / "memory.swap.max").read_text() == "0"
    assert groups_named("tag-", str(tmp_path)) == {"tag-1"}


def test_usage_by_control_groups_of_version_1(tmp_path: Path) -> None:
    """The same from those of version 1 that know; bytes of disks, which they lose, are not told."""
    for controller, name, text in (
        ("cpuacct", "cpuacct.usage", "1500000000\n"),
        ("memory", "memory.max_usage_in_bytes", "8192\n"),
        ("blkio", "blkio.throttle.io_service_bytes_recursive", "8:0 Read 5\n8:0 Write 6\nTotal 1"),
    ):
        (tmp_path / controller / "sbx" / "tag-2").mkdir(parents=True)
        (tmp_path / controller / "sbx" / "tag-2" / name).write_text(text)

    assert Group("tag-2", str(tmp_path)).usage() == {
        "cpu_seconds": 1.5,
        "memory_peak": 8192,
    }
    assert Group("other", str(tmp_path)).usage() == {}


def test_without_root_there_is_one_user_and_no_group() -> None:
    """The shepherd's root is whom image or module name; no group limits, and none is added."""
    traits = msgspec.structs.replace(TRAITS, rootless=True)
    who = {"uid": 7, "gid": 8, "groups": [9]}
    config = configured(SPEC, traits, identity=who)

    assert part(config, "process", "user") == {"uid": 7, "gid": 8, "additionalGids": []}
    assert part(config, "linux", "uidMappings") == [{"containerID": 7, "hostID": 0, "size": 1}]
    assert part(config, "linux", "gidMappings") == [{"containerID": 8, "hostID": 0, "size": 1}]
    assert {"type": "user"} in part(config, "linux", "namespaces")  # type: ignore[operator]
    assert "resources" not in part(config, "linux")  # type: ignore[operator]
    assert {"type": "user"} not in part(configured(SPEC), "linux", "namespaces")  # type: ignore[operator]


def test_a_script_is_no_static_program(tmp_path: Path) -> None:
    """An init has to start in any image, so it may need nothing of the host's libraries."""
    (tmp_path / "script").write_text("#!/bin/sh\n")

    assert not is_static(str(tmp_path / "script"))
    assert not is_static(str(tmp_path / "absent"))


@pytest.mark.parametrize(
    ("names", "uid", "words"),
    [
        pytest.param("NAMESPACE", 1000, "needs root, or a kernel that lets", id="no-namespace"),
        pytest.param("RUNTIMES", 1000, "apt install crun", id="no-crun-for-a-user"),
        pytest.param("RUNTIMES", 0, "apt install crun", id="no-crun"),
        pytest.param("INITS", 0, "apt install tini", id="no-init"),
    ],
)
def test_what_a_host_lacks_is_said(
    monkeypatch: pytest.MonkeyPatch, names: str, uid: int, words: str
) -> None:
    """One sentence with what to do about it."""
    monkeypatch.setattr(os, "getuid", lambda: uid)
    monkeypatch.setattr(oci_tools, "RUNTIMES", ("sh",))
    monkeypatch.setattr(oci_tools, names, ("nothing-of-that-name",))

    with pytest.raises(RuntimeUnavailable, match=words):
        look_around()
