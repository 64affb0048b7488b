"""What a user who is not root has of containers without a daemon; executed by test_rootless.py."""

import asyncio
import os
import signal
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from integration.containers import MIB, Bench, on_oci
from integration.test_runtime_oci_shepherd import shepherd_of, until

from scalebox_actors.errors import SpecRejected
from scalebox_actors.runtimes.oci import OciRuntime
from scalebox_actors.runtimes.oci_images import ImageStore
from scalebox_actors.runtimes.oci_import import import_image

pytestmark = pytest.mark.timeout(60)

Oci = Bench[OciRuntime]


@pytest.fixture
async def bench(oci_images: ImageStore, tmp_path: Path) -> AsyncIterator[Oci]:
    """Return a bench with a state directory of its own."""
    assert os.getuid() != 0
    async with on_oci(tmp_path, oci_images) as made:
        yield made


@pytest.mark.parametrize("user", ["0", "1000", "4000:5000"])
async def test_whoever_a_program_is_its_files_are_this_users(bench: Oci, user: str) -> None:
    """The image sees the user that it or its module names, the host nobody but us."""
    spec = msgspec.structs.replace(bench.spec("id -u; id -g; touch mine; ls -n mine"), user=user)
    uid, gid, listed = await bench.says(spec)

    assert (uid, gid) == (user.partition(":")[0], user.partition(":")[2] or gid)
    assert listed.split()[2:4] == [uid, gid]
    assert (bench.work / "mine").stat().st_uid == os.getuid()


@pytest.mark.parametrize("limit", ["memory", "cpus"])
async def test_a_limit_that_nobody_could_keep_is_refused(bench: Oci, limit: str) -> None:
    """Without a control group there is none; a program never runs with less than was promised."""
    value = {"memory": 64 * MIB, "cpus": 0.5}[limit]

    with pytest.raises(SpecRejected, match=rf"a limit of {limit} needs control groups"):
        await bench.runtime.adopt_or_start(
            msgspec.structs.replace(bench.spec("true"), **{limit: value})
        )


async def test_cpu_time_is_told(bench: Oci) -> None:
    """Of the program and of all that its container waited for."""
    busy = await bench.ends(bench.spec("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"))
    idle = await bench.ends(bench.spec("sleep 0.5", name="two"))

    assert idle.cpu_seconds is not None
    assert busy.cpu_seconds is not None
    assert busy.cpu_seconds > idle.cpu_seconds + 0.05


async def test_a_shepherd_takes_over_what_a_killed_one_started(bench: Oci) -> None:
    """It enters the namespace of users in which they live; nothing is lost or left."""
    spec = bench.spec("echo before; until [ -e go ]; do sleep 0.02; done; echo after; exit 7")
    run = await bench.runtime.adopt_or_start(spec)
    waiting = asyncio.create_task(run.wait())
    os.kill(shepherd_of(bench.state), signal.SIGKILL)
    assert await bench.runtime.find(run.name)
    (bench.work / "go").touch()

    end, logs = await waiting, await run.logs(100)
    await bench.runtime.remove(run.name)

    assert (end.code, end.lost, logs.stdout) == (7, False, b"before\nafter\n")
    await until(lambda: not list((bench.state / "roots").iterdir()))


async def test_a_device_of_the_host_can_be_given(bench: Oci) -> None:
    """It is the host's own node: what its mode lets this user do, the container may."""
    spec = msgspec.structs.replace(bench.spec("ls /dev/vcs /dev/fuse"), devices=("/dev/fuse",))

    assert "/dev/fuse" in await bench.says(spec)


async def test_an_image_whose_folders_are_closed_goes_again(tmp_path: Path) -> None:
    """The owner of a folder may have no right to write in it; it is removed all the same."""
    tree = tmp_path / "tree"
    (tree / "closed" / "below").mkdir(parents=True)
    (tree / "closed" / "below" / "file").touch()
    (tree / "closed" / "below").chmod(0o555)
    (tree / "closed").chmod(0o555)
    store = ImageStore(tmp_path / "store")
    import_image(store, tree, "closed")
    store.remove("closed")

    assert store.empty()
    assert list((tmp_path / "store" / "new").iterdir()) == []
    (tree / "closed").chmod(0o755)
    (tree / "closed" / "below").chmod(0o755)


def test_a_root_that_nobody_may_write_to_is_taken_in(tmp_path: Path) -> None:
    """Some base images have `/` so (mode 0555); they are imported, and removed again."""
    with tarfile.open(tmp_path / "image.tar", "w") as tar:
        for name in (".", "./bin"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o555
            tar.addfile(folder)
    store = ImageStore(tmp_path / "store")

    import_image(store, tmp_path / "image.tar", "closed")
    found = store.find("closed")
    store.remove("closed")

    assert found is not None
    assert store.empty()
    assert list((store.root / "new").iterdir()) == []
