"""What may be mounted: never the system, nor what leads out of its root."""

from pathlib import Path

import pytest

from scalebox_actors.errors import NotPermitted
from scalebox_actors.runtimes.mounts import check_root, real_mounts
from scalebox_actors.spec import Mount


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/etc",
        "/etc/ssl",
        "/usr/bin",
        "/proc",
        "/sys",
        "/dev",
        "/var",
        "/run",
        "/var/run",
        "/bin",
    ],
)
def test_system_directories_are_never_roots(path: str) -> None:
    """Neither the system's directories, nor what is in them, nor what holds them."""
    with pytest.raises(NotPermitted):
        check_root(path)


def test_memory_scratch_may_be_mounted() -> None:
    """The one place below /dev that programs share on purpose."""
    assert check_root("/dev/shm") == "/dev/shm"


def test_guarded_places_are_out_of_reach(tmp_path: Path) -> None:
    """The engine's socket can be mounted neither itself, nor by its directory, nor by a link."""
    socket = tmp_path / "engine" / "docker.sock"
    socket.parent.mkdir()
    socket.touch()
    (tmp_path / "link").symlink_to(socket.parent)

    for path in (tmp_path, socket.parent, tmp_path / "link"):
        with pytest.raises(NotPermitted):
            check_root(str(path), [str(socket)])


def test_links_may_not_leave_their_root(tmp_path: Path) -> None:
    """A mount's real path decides, through any chain of links."""
    root, secret = tmp_path / "root", tmp_path / "secret"
    for folder in (root / "inside", secret):
        folder.mkdir(parents=True)
    (root / "first").symlink_to("second")
    (root / "second").symlink_to(secret)
    (root / "fine").symlink_to("inside")

    fine = Mount(source=f"{root}/fine", target="/a", root=str(root))
    assert real_mounts([fine])[0].source == str(root / "inside")
    with pytest.raises(NotPermitted, match="leaves the root"):
        real_mounts([Mount(source=f"{root}/first", target="/a", root=str(root))])


def test_a_folder_of_the_nodes_own_may_lie_anywhere() -> None:
    """Work directories may be kept below /run, where a topology may mount nothing."""
    door = Mount(source="/run/sbx/door", target="/sbx", ours=True)

    assert real_mounts([door]) == (door,)
