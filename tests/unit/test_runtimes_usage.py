"""What containers used is measured by groups around them, where that is possible."""

from pathlib import Path

import pytest

from scalebox_actors.ports import Exit
from scalebox_actors.runtimes.cgroups import Cgroups, Layout
from scalebox_actors.runtimes.docker_body import Traits
from scalebox_actors.runtimes.docker_usage import Meter, fault_of


@pytest.mark.parametrize(
    ("traits", "host", "version", "expected"),
    [
        pytest.param(Traits(cgroup_driver="cgroupfs", cgroup_version="1"), "unix:///s", 1, ""),
        pytest.param(Traits(cgroup_driver="cgroupfs", cgroup_version="2"), "unix:///s", 2, ""),
        pytest.param(Traits(cgroup_driver="cgroupfs"), "unix:///s", 1, "", id="an-old-engine"),
        pytest.param(Traits(cgroup_driver="cgroupfs"), "tcp://h:1", 1, "not on this host"),
        pytest.param(
            Traits(cgroup_driver="systemd", cgroup_version="2"), "unix:///s", 2, "systemd"
        ),
        pytest.param(Traits(), "unix:///s", 2, "unknown"),
        pytest.param(Traits(cgroup_driver="cgroupfs", cgroup_version="2"), "unix:///s", 0, "no co"),
        pytest.param(Traits(cgroup_driver="cgroupfs", cgroup_version="2"), "unix:///s", 1, "v2"),
    ],
)
def test_where_usage_can_be_measured(
    traits: Traits, host: str, version: int, expected: str
) -> None:
    """On this host, with plain control groups of the same version; else a reason is given."""
    fault = fault_of(traits, host, version)

    assert expected in fault
    assert bool(expected) == bool(fault)


def meter_in(place: Path) -> Meter:
    """Return a meter on plain folders in the place of control groups."""
    for name in ("cpuacct", "memory"):
        (place / name).mkdir()
    layout = Layout(version=1, roots={n: str(place / n) for n in ("cpuacct", "memory")})
    return Meter(Cgroups(layout))


def test_a_group_lives_as_long_as_its_container(tmp_path: Path) -> None:
    """It is made before the container, read at its end, and removed with it."""
    meter, labels = meter_in(tmp_path), {"sbx.node": "n1"}
    parent = meter.begin("sbx-t.m.one", labels)
    meter.note("c1", parent)
    (tmp_path / f"cpuacct{parent}/cpuacct.usage").write_text("2000000000")
    end = meter.measured(Exit(code=0), parent)
    (tmp_path / f"cpuacct{parent}/cpuacct.usage").unlink()
    meter.end("c1")

    assert parent.startswith("/sbx/n1/sbx-t.m.one~")
    assert (end.cpu_seconds, end.memory_peak) == (2.0, None)
    assert list(tmp_path.glob("*/sbx/n1/*")) == []


@pytest.mark.parametrize(("version", "expected"), [(1, (None, None)), (2, (4096, 512))])
def test_what_version_1_forgets_is_not_told(
    tmp_path: Path, version: int, expected: tuple[int | None, int | None]
) -> None:
    """Bytes of a container that has ended are known to its parent group in version 2 only."""
    roots = {"": str(tmp_path)} if version == 2 else {"cpuacct": str(tmp_path)}
    groups = Cgroups(Layout(version=version, roots=roots | {"blkio": str(tmp_path)}))
    folder = tmp_path / "sbx/n/one"
    folder.mkdir(parents=True)
    (folder / "cpuacct.usage").write_text("1")
    (folder / "cpu.stat").write_text("usage_usec 1")
    (folder / "io.stat").write_text("8:0 rbytes=4096 wbytes=512")
    (folder / "blkio.throttle.io_service_bytes").write_text("8:0 Read 0\n8:0 Write 0\n")
    end = Meter(groups).measured(Exit(code=0), "/sbx/n/one")

    assert expected == (end.io_read_bytes, end.io_write_bytes)


def test_a_group_that_stayed_empty_tells_nothing(tmp_path: Path) -> None:
    """An engine in a namespace of its own puts containers elsewhere: not known is not 0."""
    meter = meter_in(tmp_path)
    parent = meter.begin("sbx-t.m.one", {})
    (tmp_path / f"cpuacct{parent}/cpuacct.usage").write_text("0")
    (tmp_path / f"memory{parent}/memory.max_usage_in_bytes").write_text("0")

    assert meter.measured(Exit(code=0), parent) == Exit(code=0)
    assert meter.measured(Exit(code=0), "/docker") == Exit(code=0)


def test_groups_that_were_left_are_swept(tmp_path: Path) -> None:
    """Those of the node's own topology that neither a container nor somebody at work has."""
    old, labels = meter_in(tmp_path), {"sbx.node": "n1"}
    left, held, other = (old.begin(n, labels) for n in ("sbx-t.m.a", "sbx-t.m.b", "sbx-u.m.c"))
    meter = Meter(old._groups)
    begun = meter.begin("sbx-t.m.d", labels)
    meter.sweep("n1", "t", {held})

    present = {f"/sbx/n1/{path.name}" for path in tmp_path.glob("memory/sbx/n1/*")}
    assert present == {held, other, begun}
    assert left not in present


def test_without_the_right_nothing_is_made(tmp_path: Path) -> None:
    """A container of a node that is not root has no group, and its end is as it was."""
    meter = Meter(meter_in(tmp_path)._groups, fault="no right")
    parent = meter.begin("sbx-t.m.one", {})
    meter.sweep("n1", "t", ())

    assert parent == ""
    assert meter.measured(Exit(code=0), "/sbx/n1/one") == Exit(code=0)
    assert not (tmp_path / "memory/sbx").exists()
