"""The image store of the runtime `oci`: what is there, what is damaged, what is refused."""

from pathlib import Path

import msgspec
import pytest

from scalebox_actors.errors import ImageMissing, SpecRejected
from scalebox_actors.runtimes.oci import OciRuntime
from scalebox_actors.runtimes.oci_config import Traits
from scalebox_actors.runtimes.oci_images import DIGEST, Image, ImageStore
from scalebox_actors.spec import ContainerSpec

A, B = DIGEST + "a" * 64, DIGEST + "b" * 64


def stored(root: Path, **images: str) -> ImageStore:
    """Return a store with empty images, by their names."""
    store = ImageStore(root)
    for name, digest in images.items():
        with store.adding() as folder:
            (folder / "whole/rootfs").mkdir(parents=True)
            store.add(folder / "whole", Image(digest=digest), name)
    return store


def test_a_store_that_is_not_there_is_empty(tmp_path: Path) -> None:
    """Nobody has imported anything: nothing is found, listed or made."""
    store = ImageStore(tmp_path / "absent")

    assert (store.empty(), store.all(), store.find("a/b")) == (True, [], None)
    assert not store.root.exists()


def test_a_store_is_found_from_every_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shepherd, which works in another directory, is told whole paths."""
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "store/images/12"
    place.mkdir(parents=True)
    (place / "image.json").write_text('{"digest": "sha256:12"}')
    found = ImageStore(Path("store")).find("sha256:12")

    assert found is not None
    assert found.rootfs == place / "rootfs"


@pytest.mark.parametrize("left", [b"", b"{", b"[]", b'{"name": 1}'])
def test_a_damaged_file_means_nothing(tmp_path: Path, left: bytes) -> None:
    """What a power cut leaves of a name or an image is as if it were not there; all else works."""
    store = stored(tmp_path / "s", one=A, two=B)
    store._name_file("one:latest").write_bytes(left)

    assert store.find("one") is None
    assert [named and named.name for named, _ in store.all()] == ["two:latest", None]
    assert store.remove("two") == ["two:latest", B]
    (tmp_path / "s/images" / A.removeprefix(DIGEST) / "image.json").write_bytes(left)
    assert (store.all(), store.find(A)) == ([], None)
    stored(tmp_path / "s", one=A)
    assert store.find("one") == store.find(A)
    assert store.remove("one") == ["one:latest", A]


@pytest.mark.parametrize(
    ("image", "work", "error"),
    [
        pytest.param("sha256:\0", "", SpecRejected, id="a-value"),
        pytest.param("one", "/" + "a" * 300, SpecRejected, id="a-file"),
        pytest.param("absent", "", ImageMissing, id="no-image"),
    ],
)
async def test_what_nobody_thought_of_is_the_modules_fault(
    tmp_path: Path, image: str, work: str, error: type[Exception]
) -> None:
    """It suspends the module; as any other error it would bury all its messages, one by one."""
    runtime = OciRuntime(tmp_path / "state")
    runtime._images = stored(tmp_path / "s", one=A)
    runtime._traits = Traits(runtime=("crun",), init="/init", seccomp=None)
    spec = ContainerSpec(
        name="sbx-t.m.one", image=image, command=("a",), env={}, labels={}, work=str(tmp_path)
    )

    with pytest.raises(error):
        await runtime.adopt_or_start(msgspec.structs.replace(spec, work=work or spec.work))


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        pytest.param(f"safe/tool@{A}", A, id="by-its-name"),
        pytest.param(f"docker.io/safe/tool:7@{A}", A, id="whatever-the-tag"),
        pytest.param(A, A, id="by-its-digest-alone"),
        pytest.param(f"safe/tool@{B}", "", id="by-another-ones-name"),
        pytest.param(f"safe@{A}", "", id="by-half-a-name"),
        pytest.param(f"host:5000/admin@{B}", B, id="with-a-port"),
        pytest.param(f"safe/tool@{DIGEST}{'c' * 64}", "", id="nobodys"),
    ],
)
def test_a_name_beside_a_digest_counts(tmp_path: Path, reference: str, found: str) -> None:
    """Who may run `safe/` runs no other image by writing that name before its digest."""
    store = stored(tmp_path / "s", **{"safe/tool:1": A, "host:5000/admin": B})

    actual = store.find(reference)

    assert (actual.image.digest if actual else "") == found
