"""What tests of several floors share: a container engine and an image for it."""

import gc
import http.client
import io
import os
import shutil
import socket
import subprocess
import tarfile
import urllib.parse
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, settings

from scalebox_actors.runtimes.oci_images import ImageStore
from scalebox_actors.runtimes.oci_import import import_image

# How fast a busy machine draws examples, and how many it draws in vain, is no promise of ours; what
# they must show stays asserted.
VAIN = [HealthCheck.too_slow, HealthCheck.filter_too_much]
settings.register_profile("busy", suppress_health_check=VAIN)
settings.load_profile("busy")

BUSYBOX_IMAGE = "sbx/test-busybox:1"
KILLING = ("faults", "integration")
"""Where servers are killed under connections: nats-py leaves one that failed to the collector."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let what nats-py leaves to the garbage collector fail no test."""
    ignored = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    for item in items:
        if item.path.parent.name in KILLING:
            item.add_marker(ignored)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """What such a test leaves is collected at its end, and not in the middle of another one.

    Nothing is said of it: pytest has asked this test by now, and would blame the next one.
    """
    if item.path.parent.name in KILLING:
        with warnings.catch_warnings(action="ignore"):
            for _ in range(3):  # what is collected may let go of more
                gc.collect()


def cannot_run(reason: str) -> NoReturn:
    """Skip on somebody's laptop; fail where every test has to run."""
    if os.environ.get("SBX_TESTS_MUST_RUN") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session", name="cannot_run")
def _cannot_run() -> Callable[[str], NoReturn]:
    """Return what a test calls when it cannot run where it is."""
    return cannot_run


@pytest.fixture(scope="session")
def docker_socket() -> str:
    """Return the path of the unix socket of the engine that DOCKER_HOST names."""
    host = os.environ.get("DOCKER_HOST", "")
    path = host.removeprefix("unix://")
    if not host.startswith("unix://") or not Path(path).is_socket():
        cannot_run("DOCKER_HOST names no engine with a unix socket; see deploy/with-engine")
    return path


@pytest.fixture(scope="session")
def import_busybox() -> Callable[[str], str]:
    """Return what gives the engine at a socket an image of this host's busybox."""
    return _import_busybox


@pytest.fixture(scope="session")
def busybox_image(docker_socket: str) -> str:
    """Import an image made of the static busybox of this host, and return its name."""
    return _import_busybox(docker_socket)


@pytest.fixture(scope="session")
def oci_images(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    """Return an image store for the runtime `oci` with an image of this host's busybox."""
    for tool in ("crun", "skopeo", "umoci", "busybox"):
        if shutil.which(tool) is None:
            cannot_run(f"there is no {tool}; see deploy/oci-tools")
    folder = tmp_path_factory.mktemp("oci")
    layer = folder / "layer.tar"
    layer.write_bytes(_busybox_layer(Path(shutil.which("busybox") or "")))
    store = ImageStore(folder / "images")
    import_image(store, layer, BUSYBOX_IMAGE)
    return store


def _import_busybox(docker_socket: str) -> str:
    busybox = shutil.which("busybox")
    if busybox is None:
        cannot_run("there is no busybox to make an image of; install busybox-static")
    return _import_layer(docker_socket, BUSYBOX_IMAGE, _busybox_layer(Path(busybox)))


@pytest.fixture(scope="session")
def import_layer() -> Callable[..., str]:
    """Return what gives the engine at a socket an image made of a tar file, with `changes`."""
    return _import_layer


def _import_layer(docker_socket: str, image: str, layer: bytes, changes: str = "") -> str:
    connection = http.client.HTTPConnection("engine", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(docker_socket)
    # With its tag in the name: podman does not read one beside it.
    query = urllib.parse.urlencode(
        {"fromSrc": "-", "repo": image} | ({"changes": changes} if changes else {})
    )
    connection.request("POST", f"/images/create?{query}", layer)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    answer.read()
    connection.close()
    return image


@pytest.fixture(scope="session")
def busybox_layer() -> bytes:
    """Return the files of the image of this host's busybox."""
    busybox = shutil.which("busybox")
    if busybox is None:
        cannot_run("there is no busybox to make an image of; install busybox-static")
    return _busybox_layer(Path(busybox))


def _busybox_layer(busybox: Path) -> bytes:
    passwd = b"root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"
    applets = subprocess.run(  # noqa: S603 - the host's own busybox
        [busybox, "--list"], capture_output=True, check=True, text=True
    )
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        for name, mode in (("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("proc", 0o555)):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, mode
            layer.addfile(folder)
        for name, mode, data in (
            ("bin/busybox", 0o755, busybox.read_bytes()),
            ("etc/passwd", 0o644, passwd),
        ):
            file = tarfile.TarInfo(name)
            file.size, file.mode = len(data), mode
            layer.addfile(file, io.BytesIO(data))
        for applet in set(applets.stdout.split()) - {"busybox"}:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            layer.addfile(link)
    return buffer.getvalue()
