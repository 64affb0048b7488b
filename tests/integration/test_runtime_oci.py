"""What only containers without a daemon can show: isolation, limits, and an image store."""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest
from integration.containers import CLOSED, MIB, PROBE, Bench, image_of, on_oci

from scalebox_actors.errors import (
    ImageMissing,
    NotPermitted,
    RuntimeUnavailable,
    SpecRejected,
    Unavailable,
)
from scalebox_actors.runtimes import oci
from scalebox_actors.runtimes.choose import open_runtime
from scalebox_actors.runtimes.docker import DockerRuntime
from scalebox_actors.runtimes.oci import OciRuntime
from scalebox_actors.runtimes.oci_images import ImageStore
from scalebox_actors.runtimes.shepherd_container import group_name
from scalebox_actors.spec import Mount

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

DEVICES = "core fd full init mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"

Oci = Bench[OciRuntime]


@pytest.fixture
def image(oci_images: ImageStore) -> str:
    """Return the name of the store's image."""
    return image_of(oci_images)


@pytest.fixture
async def bench(oci_images: ImageStore, tmp_path: Path) -> AsyncIterator[Oci]:
    """Return a bench with a state directory of its own."""
    async with on_oci(tmp_path, oci_images) as made:
        yield made


def groups(state: Path) -> list[Path]:
    """Return the control groups of the containers of a state directory."""
    root, name = Path("/sys/fs/cgroup"), group_name(str(state), "*")
    return [*root.glob(f"*/sbx/{name}"), *root.glob(f"sbx/{name}")]


async def test_a_container_has_no_devices_but_the_usual_ones(bench: Oci) -> None:
    """Those that every program may expect, and its init, which lies among them."""
    assert await bench.says(bench.spec("echo $(ls /dev)")) == [DEVICES]


async def test_the_filter_is_the_same_without_a_compiled_one(
    oci_images: ImageStore, bench: Oci
) -> None:
    """Where crun has to compile the profile itself, the container is as closed as before."""
    plain = await OciRuntime.over(oci_images, bench.state)
    plain._traits = msgspec.structs.replace(plain._traits, filter="")

    run = await plain.adopt_or_start(bench.spec(PROBE))
    await run.wait()
    said = (await run.logs(10_000)).stdout.decode().splitlines()
    await plain.close()

    assert said[: len(CLOSED)] == CLOSED
    assert "namespace made" not in said


async def test_what_is_written_to_the_root_dies_with_the_container(bench: Oci) -> None:
    """The image is the same for the next one, and nothing of the root is left on disk."""
    first = await bench.says(bench.spec("echo x >/mine; rm /etc/passwd; ls /mine"))
    second = await bench.says(bench.spec("ls /mine /etc/passwd 2>/dev/null", name="two"))

    assert (first, second) == (["/mine"], ["/etc/passwd"])
    assert list((bench.state / "roots").iterdir()) == []


async def test_the_peak_of_memory_is_that_of_the_run(bench: Oci) -> None:
    """A program that was killed at its limit had as much as that, and no more."""
    spec = msgspec.structs.replace(bench.spec("exec tail -c 200000000 /dev/zero"), memory=16 * MIB)

    end = await bench.ends(spec)

    assert end.memory_peak is not None
    assert 8 * MIB < end.memory_peak <= 17 * MIB


async def test_a_killed_child_is_told_although_its_shell_goes_on(bench: Oci) -> None:
    """Memory that ran out for a child only is told, too, beside the exit code 0."""
    script = "tail -c 200000000 /dev/zero >/dev/null; exit 0"
    spec = msgspec.structs.replace(bench.spec(script), memory=16 * MIB)

    end = await bench.ends(spec)

    assert (end.code, end.out_of_memory) == (0, True)


async def test_what_was_used_is_told(bench: Oci) -> None:
    """CPU seconds, the peak of memory and the bytes written come with the exit."""
    script = "dd if=/dev/zero of=/work/f bs=1M count=8 2>/dev/null; sync; i=0; "
    script += "while [ $i -lt 100000 ]; do i=$((i+1)); done"

    end = await bench.ends(bench.spec(script))

    assert end.cpu_seconds is not None
    assert 0.02 < end.cpu_seconds < 20
    assert end.memory_peak is not None
    assert end.memory_peak > MIB


async def test_a_flood_is_bounded_and_only_its_tail_is_read(bench: Oci) -> None:
    """Of a long output a bounded log is kept, and we return its last bytes."""
    spec = msgspec.structs.replace(
        bench.spec("yes 0123456789 | head -c 20000000; echo the end"), log_bytes=MIB
    )
    run = await bench.runtime.adopt_or_start(spec)
    await run.wait()

    logs = await run.logs(8)

    held = sum(f.stat().st_size for f in bench.state.glob("*/stdout*"))
    assert (logs.stdout, logs.stdout_size) == (b"the end\n", 20_000_008)
    assert held < 1.3 * MIB


@pytest.mark.parametrize(
    "wish",
    [
        pytest.param({"command": ("a\udc80b",)}, id="not-utf-8"),
        pytest.param({"command": ()}, id="no-command"),
        pytest.param({"devices": ("/etc/passwd",)}, id="no-device"),
    ],
)
async def test_more_impossible_specs_are_rejected(bench: Oci, wish: dict[str, object]) -> None:
    """What an engine might make something of is refused here too, and leaves no container."""
    spec = msgspec.structs.replace(bench.spec("true"), **wish)

    with pytest.raises(SpecRejected):
        await bench.runtime.adopt_or_start(spec)

    assert await bench.runtime.stray({}) == []


async def test_what_crun_refuses_is_a_failed_start(bench: Oci, tmp_path: Path) -> None:
    """A mount onto something that cannot be one: nothing was executed, and crun says why."""
    (tmp_path / "data").mkdir()
    mount = Mount(source=f"{tmp_path}/data", target="/etc/passwd/x", root=str(tmp_path))

    end = await bench.ends(msgspec.structs.replace(bench.spec("true"), mounts=(mount,)))

    assert (end.code, end.not_started, end.lost) == (126, True, False)
    assert "passwd" in end.detail


async def test_a_mount_that_leaves_its_root_is_refused(
    oci_images: ImageStore, bench: Oci, tmp_path: Path
) -> None:
    """A link below a root that leads out of it is not mounted, nor are images and state."""
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").mkdir()
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "images").symlink_to(oci_images.root)
    (root / "state").symlink_to(bench.state)

    for name in ("link", "images", "state"):
        mount = Mount(source=f"{root}/{name}", target="/data", root=str(root))
        with pytest.raises(NotPermitted):
            await bench.runtime.adopt_or_start(
                msgspec.structs.replace(bench.spec("true"), mounts=(mount,))
            )


async def test_a_device_is_there_if_allowed(bench: Oci) -> None:
    """A device of the host that the spec names can be used; others are not there."""
    spec = msgspec.structs.replace(bench.spec("ls /dev"), devices=("/dev/kmsg",))

    assert " ".join(await bench.says(spec)) == DEVICES.replace("init", "init kmsg")


ON_AN_OVERLAY = """
cd $1 && mkdir l u w m && mount -t overlay none -o lowerdir=l,upperdir=u,workdir=w m || exit 1
"$2" -c '
import asyncio, sys
from pathlib import Path
from scalebox_actors.runtimes.oci import OciRuntime
from scalebox_actors.runtimes.oci_images import ImageStore
from scalebox_actors.spec import ContainerSpec

async def main(images, image, work):
    runtime = await OciRuntime.over(ImageStore(Path(images)), "m/state")
    words = ("sh", "-c", "echo x >/x; cat /x")
    spec = ContainerSpec(
        name="sbx-o.m.one", image=image, command=words, env={}, labels={}, work=work
    )
    run = await runtime.adopt_or_start(spec)
    end = await run.wait()
    print(end.code, (await run.logs(10)).stdout, end.detail)
    await runtime.remove(spec.name)
    await runtime.close()

asyncio.run(main(*sys.argv[1:]))
' "$3" "$4" "$1"
kill $(cat m/state/shepherd.pid)
"""


def test_on_a_file_system_that_holds_no_overlay_roots_are_in_memory(
    oci_images: ImageStore, image: str, tmp_path: Path
) -> None:
    """As in CI, which is a container itself: an overlay cannot lie on an overlay."""
    words = ["unshare", "--mount", "sh", "-c", ON_AN_OVERLAY, "-", str(tmp_path)]

    done = subprocess.run(  # noqa: S603 - our own words
        [*words, sys.executable, str(oci_images.root), image], capture_output=True, check=False
    )

    assert (done.stdout, done.stderr) == (b"0 b'x\\n' \n", b"")


async def test_the_hosts_network_comes_with_its_names(bench: Oci) -> None:
    """Where the ceiling allows it a container is in the host's network and finds hosts by name."""
    script = "cat /etc/hosts; readlink /proc/self/ns/net"

    said = await bench.says(msgspec.structs.replace(bench.spec(script), network="host"))

    hosts = await asyncio.to_thread(Path("/etc/hosts").read_text)
    assert said[-1] == os.readlink("/proc/self/ns/net")  # noqa: PTH115 - leads to no path
    assert said[:-1] == hosts.splitlines()


async def test_nothing_is_left_of_removed_runs(bench: Oci) -> None:
    """Files, mounts, control groups and crun's own state go with a run."""
    spec = msgspec.structs.replace(bench.spec("echo out; echo err >&2"), memory=32 * MIB)
    await bench.ends(spec)
    await bench.ends(bench.spec("exit 1", name="two"))
    await bench.runtime.adopt_or_start(bench.spec("sleep 300", name="three"))
    before = groups(bench.state)

    for stray in await bench.runtime.stray({}):
        await bench.runtime.remove(stray.name)

    left = {f.name for f in bench.state.iterdir() if not f.name.startswith("shepherd.")}
    assert left == {"journal", "runtime", "roots", "socket"}
    for folder in ("runtime", "roots"):
        assert list((bench.state / folder).iterdir()) == []
    assert before
    assert groups(bench.state) == []


async def test_a_missing_program_of_the_runtime_is_told(bench: Oci) -> None:
    """A crun that has gone is a failed start with a reason, not a hang."""
    bench.runtime._traits = msgspec.structs.replace(
        bench.runtime._traits, runtime=("/absent/crun",)
    )

    end = await bench.ends(bench.spec("true"))

    assert (end.not_started, end.code) == (True, 126)


async def test_a_host_on_which_no_container_starts_is_told_before_any_task(bench: Oci) -> None:
    """A filter that the kernel refuses, a crun that has gone: one sentence when the node starts."""
    for wrong, words in (({"filter": "QUFB"}, "seccomp"), ({"runtime": ("/no/crun",)}, "/no/crun")):
        bench.runtime._traits = msgspec.structs.replace(bench.runtime._traits, **wrong)
        with pytest.raises(RuntimeUnavailable, match=words):
            await bench.runtime.probe()

    assert await bench.runtime.stray({}) == []


async def test_an_image_in_use_is_not_removed(
    oci_images: ImageStore, bench: Oci, image: str
) -> None:
    """As long as a run has an image for its root, the store keeps it."""
    await bench.runtime.adopt_or_start(bench.spec("sleep 300"))

    with pytest.raises(Unavailable, match="in use"):
        oci_images.remove(image)
    with pytest.raises(ImageMissing):
        await bench.runtime.adopt_or_start(
            msgspec.structs.replace(bench.spec("true", name="two"), image="sbx/absent")
        )

    assert oci_images.find(image) is not None


async def _no_engine(*_: object, **__: object) -> NoReturn:
    raise RuntimeUnavailable("no engine")


@pytest.mark.parametrize("filled", [True, False])
async def test_without_an_engine_oci_is_taken_if_it_has_images(
    oci_images: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filled: bool
) -> None:
    """A crun alone surprises nobody: only who has imported an image gets this runtime unasked."""
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr(DockerRuntime, "open", _no_engine)
    images = oci_images.root if filled else tmp_path / "empty"

    runtime = await open_runtime(None, state=tmp_path / "state", images=images)
    await runtime.close()

    assert runtime.kind == ("oci" if filled else "process")


@pytest.mark.parametrize("spoilt", ["shepherd.lock", "roots"])
async def test_oci_unasked_is_given_up_where_it_cannot_start(
    oci_images: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoilt: str
) -> None:
    """The next runtime is taken; who asks for `oci` is told why, and the log keeps all of it."""
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr(DockerRuntime, "open", _no_engine)
    state = tmp_path / "state.oci"
    state.mkdir(mode=0o700)
    if spoilt == "roots":
        (state / spoilt).touch()
    else:
        (state / spoilt).mkdir()

    runtime = await open_runtime(None, state=tmp_path / "state", images=oci_images.root)
    await runtime.close()
    with pytest.raises(RuntimeUnavailable, match=rf"does not start: .*{spoilt}"):
        await open_runtime("oci", state=tmp_path / "state", images=oci_images.root)

    assert runtime.kind == "process"
    assert (state / "shepherd.log").read_text().count("Traceback") == 2


async def test_what_is_refused_to_everybody_is_the_hosts_fault(
    oci_images: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container of nothing that cannot be made is a reason to take another runtime."""
    monkeypatch.setattr(oci, "_probed", set())
    monkeypatch.setattr(OciRuntime, "_box_of_nothing", lambda *_: {})

    with pytest.raises(RuntimeUnavailable, match="no container can be made: "):
        await OciRuntime.over(oci_images, tmp_path / "state")


async def test_no_temporary_directory_is_needed(
    oci_images: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service may see all of its host read-only, but what is its own."""
    monkeypatch.setattr(oci, "_probed", set())
    monkeypatch.setattr(tempfile, "tempdir", "/dev/null")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)

    runtime = await OciRuntime.over(oci_images, tmp_path / "state")
    await runtime.close()
    with pytest.raises(RuntimeUnavailable, match="/dev/null"):
        await oci.try_out(oci_images)

    assert oci._probed
