"""Control groups: what their files say, and groups on a tree of plain folders."""

from pathlib import Path

import pytest

from scalebox_actors.runtimes.cgroup_files import Reading, read_v1, read_v2
from scalebox_actors.runtimes.cgroups import Cgroups, Layout, layout_of

V1 = "cgroup /sys/fs/cgroup/{0} cgroup rw,relatime,{0} 0 0\n"
V2 = "cgroup2 /sys/fs/cgroup{0} cgroup2 rw,nosuid 0 0\n"
REST = "proc /proc proc rw 0 0\n/dev/sda1 / ext4 rw,relatime 0 0\n\nodd\n"


@pytest.mark.parametrize(
    ("mounts", "word", "roots"),
    [
        pytest.param(REST, "none", {}, id="none"),
        pytest.param(
            REST + V1.format("memory") + V1.format("cpu,cpuacct"),
            "v1",
            {
                "memory": "/sys/fs/cgroup/memory",
                "cpu": "/sys/fs/cgroup/cpu,cpuacct",
                "cpuacct": "/sys/fs/cgroup/cpu,cpuacct",
            },
            id="v1-joined-controllers",
        ),
        pytest.param(
            V1.format("memory") + V1.format("name=systemd") + V2.format("/unified"),
            "hybrid",
            {"memory": "/sys/fs/cgroup/memory", "name=systemd": "/sys/fs/cgroup/name=systemd"},
            id="hybrid-is-v1",
        ),
        pytest.param(
            V1.format("name=systemd") + V2.format(""),
            "v2",
            {"": "/sys/fs/cgroup"},
            id="a-named-hierarchy-alone-is-no-v1",
        ),
        pytest.param(V2.format(""), "v2", {"": "/sys/fs/cgroup"}, id="v2"),
    ],
)
def test_layout(mounts: str, word: str, roots: dict[str, str]) -> None:
    """Which version does the work follows from what is mounted, and where each controller is."""
    layout = layout_of(mounts)

    assert (word, roots) == (layout.word, layout.roots)


BLKIO = "8:0 Read 4096\n8:0 Write 512\n8:0 Total 4608\n8:16 Read 1024\nTotal 5632\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, Reading(), id="nothing-is-known"),
        pytest.param(
            {
                "cpuacct.usage": "1500000000\n",
                "memory.max_usage_in_bytes": "8192\n",
                "blkio.throttle.io_service_bytes_recursive": BLKIO,
            },
            Reading(cpu_seconds=1.5, memory_peak=8192, io_read_bytes=5120, io_write_bytes=512),
            id="all",
        ),
        pytest.param(
            {"blkio.throttle.io_service_bytes": BLKIO},
            Reading(io_read_bytes=5120, io_write_bytes=512),
            id="a-kernel-without-sums-over-children",
        ),
        pytest.param(
            {"blkio.throttle.io_service_bytes_recursive": "8:0 Read 0\n8:0 Write 0\nTotal 0\n"},
            Reading(io_read_bytes=0, io_write_bytes=0),
            id="nothing-moved",
        ),
        pytest.param(
            {
                "blkio.throttle.io_service_bytes_recursive": "Total 0\n",
                "blkio.bfq.io_service_bytes_recursive": BLKIO,
            },
            Reading(io_read_bytes=5120, io_write_bytes=512),
            id="only-the-scheduler-counts",
        ),
        pytest.param(
            {"blkio.throttle.io_service_bytes_recursive": "Total 0\n"},
            Reading(),
            id="a-disk-that-is-not-counted-on",
        ),
        pytest.param(
            {"cpuacct.usage": "", "memory.max_usage_in_bytes": "max\n"}, Reading(), id="no-numbers"
        ),
        pytest.param(
            {"blkio.throttle.io_service_bytes_recursive": "8:0 Read\n8:0\nx:0 Read -1\n"},
            Reading(),
            id="lines-cut-short",
        ),
    ],
)
def test_version_1(files: dict[str, str], expected: Reading) -> None:
    """Nanoseconds, bytes and lines per disk become one reading; what is not there is None."""
    assert expected == read_v1(files)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, Reading(), id="nothing-is-known"),
        pytest.param(
            {
                "cpu.stat": "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\n",
                "memory.peak": "16384\n",
                "io.stat": "8:0 rbytes=4096 wbytes=512 rios=1 wios=1\n8:16 rbytes=1 wbytes=0\n",
            },
            Reading(cpu_seconds=2.5, memory_peak=16384, io_read_bytes=4097, io_write_bytes=512),
            id="all",
        ),
        pytest.param(
            {"cpu.stat": "usage_usec 7\n"}, Reading(cpu_seconds=7e-6), id="a-kernel-without-peak"
        ),
        pytest.param({"io.stat": ""}, Reading(io_read_bytes=0, io_write_bytes=0), id="no-disk"),
        pytest.param(
            {"cpu.stat": "user_usec 1\n", "io.stat": "8:0 rbytes= wbytes=x\n8:0\n"},
            Reading(io_read_bytes=0, io_write_bytes=0),
            id="odd-lines",
        ),
    ],
)
def test_version_2(files: dict[str, str], expected: Reading) -> None:
    """Microseconds, bytes and pairs per disk become one reading; what is not there is None."""
    assert expected == read_v2(files)


def v1_in(place: Path) -> Cgroups:
    """Return groups of version 1 on plain folders, with one hierarchy that is not measured."""
    names = ("cpuacct", "memory", "blkio", "pids")
    for name in names:
        (place / name).mkdir()
    return Cgroups(Layout(version=1, roots={name: str(place / name) for name in names}))


def test_a_group_is_made_where_it_is_measured_and_removed_everywhere(tmp_path: Path) -> None:
    """Also where only the engine made one; making and removing may be repeated."""
    groups = v1_in(tmp_path)
    for _ in range(2):
        groups.make("/sbx/n/one")
    made = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/sbx/n/*"))
    (tmp_path / "pids/sbx/n/one/container").mkdir(parents=True)
    listed = groups.below("/sbx/n")

    assert made == ["blkio/sbx/n/one", "cpuacct/sbx/n/one", "memory/sbx/n/one"]
    assert listed == ["one"]
    assert [groups.remove("/sbx/n/one") for _ in range(2)] == [True, True]
    assert list(tmp_path.glob("*/sbx/n/*")) == []


def test_a_group_is_read_from_all_its_hierarchies(tmp_path: Path) -> None:
    """A group that is not there has used nothing that anybody knows of."""
    groups = v1_in(tmp_path)
    groups.make("/sbx/one")
    (tmp_path / "cpuacct/sbx/one/cpuacct.usage").write_text("1000000\n")
    (tmp_path / "memory/sbx/one/memory.max_usage_in_bytes").write_text("77\n")

    assert groups.read("/sbx/one") == Reading(cpu_seconds=0.001, memory_peak=77)
    assert groups.read("/sbx/two") == Reading()


def test_a_group_in_use_stays(tmp_path: Path) -> None:
    """What cannot be removed is said, and nothing raised."""
    groups = v1_in(tmp_path)
    groups.make("/sbx/one")
    (tmp_path / "memory/sbx/one/a-file").touch()

    assert not groups.remove("/sbx/one")
    assert (tmp_path / "memory/sbx/one").is_dir()


def test_version_2_hands_its_controllers_down(tmp_path: Path) -> None:
    """Every group above ours is asked to give children what is measured."""
    for folder in ("", "sbx", "sbx/n"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "cgroup.subtree_control").touch()
    groups = Cgroups(Layout(version=2, roots={"": str(tmp_path)}))
    groups.make("/sbx/n/one")
    (tmp_path / "sbx/n/one/cpu.stat").write_text("usage_usec 5\n")

    asked = [p.read_text() for p in sorted(tmp_path.rglob("cgroup.subtree_control"))]
    assert len(asked) == 3
    assert all(asked)
    assert groups.read("/sbx/n/one") == Reading(cpu_seconds=5e-6)


def test_without_control_groups_none_is_made() -> None:
    """A host that has none says so as the system would."""
    with pytest.raises(FileNotFoundError):
        Cgroups(Layout()).make("/sbx/one")
