"""What real containers promise, those of an engine and those without a daemon alike."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from integration.containers import CLOSED, MIB, PROBE, Bench, on_docker, on_oci

from scalebox_actors.errors import SpecRejected
from scalebox_actors.runtimes.docker import DockerRuntime
from scalebox_actors.runtimes.oci import OciRuntime
from scalebox_actors.spec import Mount

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

Either = Bench[DockerRuntime] | Bench[OciRuntime]


@pytest.fixture(params=["docker", "oci"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Either]:
    """Return a bench with one kind of containers."""
    if request.param == "docker":
        async with on_docker(tmp_path, request.getfixturevalue("busybox_image")) as docker:
            yield docker
    else:
        async with on_oci(tmp_path, request.getfixturevalue("oci_images")) as oci:
            yield oci


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        pytest.param(
            {}, ["user: 0", "work writable", "tmp writable", "root writable"], id="image-user"
        ),
        pytest.param(
            {"read_only": True}, ["user: 0", "work writable", "tmp writable"], id="read-only"
        ),
        pytest.param(
            {"read_only": True, "user": "nobody"},
            ["user: 65534", "work writable", "tmp writable"],
            id="read-only-as-nobody",
        ),
    ],
)
async def test_a_container_can_do_nothing_to_the_host(
    bench: Either, wish: dict[str, object], expected: list[str]
) -> None:
    """No capability, no new privileges, seccomp, no network, and only /work and /tmp to write."""
    spec = msgspec.structs.replace(bench.spec(PROBE), **wish)

    said = await bench.says(spec)

    # With all capabilities dropped, busybox' ping needs a raw socket and is refused.
    assert said == CLOSED + expected


async def test_out_of_memory_is_told(bench: Either) -> None:
    """A program that takes more than its limit is killed, and the exit says why."""
    spec = msgspec.structs.replace(bench.spec("exec tail -c 200000000 /dev/zero"), memory=16 * MIB)

    end = await bench.ends(spec)

    assert (end.code, end.out_of_memory, end.lost) == (137, True, False)


async def test_a_fork_bomb_is_held(bench: Either) -> None:
    """No more processes than the limit can be had."""
    script = "i=0; while [ $i -lt 60 ]; do sleep 30 & i=$((i+1)); done; echo all"
    spec = msgspec.structs.replace(bench.spec(script), pids=20)

    said = await bench.says(spec)

    assert "all" not in said


@pytest.mark.parametrize(
    "wish",
    [
        pytest.param({"work": "/absent/work"}, id="no-work-directory"),
        pytest.param({"command": ("true", "x" * 131_072)}, id="argument-too-long"),
        pytest.param({"command": ("a\0b",)}, id="nul"),
        pytest.param({"network": "absent-network"}, id="no-such-network"),
        pytest.param({"devices": ("/dev/absent",)}, id="no-such-device"),
        pytest.param({"memory": 1024}, id="too-little-memory"),
    ],
)
async def test_impossible_specs_are_rejected(bench: Either, wish: dict[str, object]) -> None:
    """What can never be made is refused for good, and leaves no container."""
    spec = msgspec.structs.replace(bench.spec("true"), **wish)

    with pytest.raises(SpecRejected):
        await bench.runtime.adopt_or_start(spec)

    assert await bench.runtime.stray({"sbx.topology": bench.topology}) == []


async def test_an_unknown_user_is_a_failed_start(bench: Either) -> None:
    """A user that the image does not have pauses the module: nothing was executed."""
    end = await bench.ends(msgspec.structs.replace(bench.spec("true"), user="nosuchuser"))

    assert (end.code, end.not_started) == (126, True)


async def test_mounts_are_read_only_unless_said(bench: Either, tmp_path: Path) -> None:
    """A mount is there, and can be written to only where that was asked for."""
    for name in ("ro", "rw"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)
        (tmp_path / name / "here").touch()
    mounts = tuple(
        Mount(source=f"{tmp_path}/{n}", target=f"/{n}", writable=n == "rw", root=str(tmp_path))
        for n in ("ro", "rw")
    )
    script = "ls /ro /rw; touch /ro/x 2>/dev/null && echo ro; touch /rw/x && echo rw"

    said = await bench.says(msgspec.structs.replace(bench.spec(script), mounts=mounts))

    assert said == ["/ro:", "here", "", "/rw:", "here", "rw"]
