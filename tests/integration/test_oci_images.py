"""Images without a daemon: every form that they come in, and archives that mean harm."""

import asyncio
import gzip
import hashlib
import io
import json
import os
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from scalebox_actors.cli import main
from scalebox_actors.errors import BadInput, ImageMissing, NotPermitted, SbxError
from scalebox_actors.runtimes.oci import OciRuntime
from scalebox_actors.runtimes.oci_images import ImageStore, Stored
from scalebox_actors.runtimes.oci_import import import_image
from scalebox_actors.spec import ContainerSpec

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

Entry = tuple[str, bytes | str | int]
"""A name in an archive, and bytes of a file, target of a link (`->x`, `=>x`) or a type of node."""


def tar_of(entries: Iterable[Entry]) -> bytes:
    """Return a tar, exactly as told: nothing is made harmless."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, what in entries:
            member = tarfile.TarInfo(name)
            member.mode = 0o755
            if isinstance(what, bytes):
                member.size = len(what)
                tar.addfile(member, io.BytesIO(what))
                continue
            if isinstance(what, int):
                member.type = bytes([what])
                member.devmajor, member.devminor = 1, 3
            elif what == "/":
                member.type = tarfile.DIRTYPE
            else:
                member.type = tarfile.SYMTYPE if what.startswith("->") else tarfile.LNKTYPE
                member.linkname = what[2:]
            tar.addfile(member)
    return buffer.getvalue()


def docker_archive(*layers: bytes, config: dict[str, object] | None = None) -> bytes:
    """Return what `docker save` writes."""
    digests = [hashlib.sha256(layer).hexdigest() for layer in layers]
    described = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": config or {},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{d}" for d in digests]},
        }
    ).encode()
    name = f"{hashlib.sha256(described).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": ["x:1"], "Layers": [f"{d}.tar" for d in digests]}]
    files: list[Entry] = [(f"{d}.tar", layer) for d, layer in zip(digests, layers, strict=True)]
    return tar_of([*files, (name, described), ("manifest.json", json.dumps(manifest).encode())])


@pytest.fixture
def store(oci_images: ImageStore, tmp_path: Path) -> ImageStore:
    """Return an empty store, where there are the tools to fill it."""
    assert oci_images
    return ImageStore(tmp_path / "store")


def taken(store: ImageStore, source: bytes, name: str = "a/b") -> Stored:
    """Import an archive and return the image as it lies in the store."""
    file = store.root.parent / "source.tar"
    file.write_bytes(source)
    import_image(store, file, name)
    found = store.find(name)
    assert found is not None
    return found


def test_a_docker_archive_with_whiteouts(store: ImageStore) -> None:
    """Layers lie over each other: files, what is removed, links, modes and owners."""
    first = tar_of([
        ("bin/", "/"), ("bin/gone", b"1"), ("bin/stays", b"2"), ("dir/", "/"),
        ("dir/old", b"3"), ("bin/hard", "=>bin/stays"), ("bin/soft", "->stays"),
    ])  # fmt: skip
    second = tar_of([("bin/.wh.gone", b""), ("dir/.wh..wh..opq", b""), ("dir/new", b"4")])
    config: dict[str, object] = {
        "Entrypoint": ["/bin/stays"], "Cmd": ["-x"], "Env": ["A=1"], "User": "1000:5",
    }  # fmt: skip

    found = taken(store, docker_archive(first, second, config=config))

    root = found.rootfs
    assert not (root / "bin/gone").exists()
    assert [p.name for p in (root / "dir").iterdir()] == ["new"]
    assert (root / "bin/hard").stat().st_ino == (root / "bin/stays").stat().st_ino
    assert (root / "bin/soft").read_bytes() == b"2"
    image = found.image
    assert (image.entrypoint, image.command, image.env) == (("/bin/stays",), ("-x",), ("A=1",))
    assert (image.user, image.size) == ("1000:5", 3)


def test_an_oci_layout_and_its_archive_are_one_image(store: ImageStore, tmp_path: Path) -> None:
    """The same image in both forms has the same digest, and is unpacked once."""
    source = tmp_path / "docker.tar"
    source.write_bytes(docker_archive(tar_of([("a", b"x")])))
    layout, archive = tmp_path / "layout", tmp_path / "oci.tar"
    for target in (f"oci:{layout}:t", f"oci-archive:{archive}:t"):
        words = ["skopeo", "--insecure-policy", "copy", f"docker-archive:{source}", target]
        subprocess.run(words, check=True, capture_output=True)  # noqa: S603

    one = import_image(store, layout, "one")
    two = import_image(store, archive, "two:2")

    assert one.digest == two.digest
    assert [named.name for named, _ in store.all() if named] == ["one:latest", "two:2"]


def test_a_name_with_a_colon_is_a_name(
    store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an archive, a store or a folder; the tools would read a tag behind it."""
    layer = tar_of([("a", b"x")])
    (tmp_path / "app:1.tar").write_bytes(docker_archive(layer))
    (tmp_path / "tree:1").mkdir()
    monkeypatch.chdir(tmp_path)
    odd = ImageStore(store.root.with_name("store:1"))

    archive = import_image(odd, Path("app:1.tar"), "one")
    tree = import_image(odd, Path("tree:1"), "two")

    assert {image.digest for _, image in odd.all()} == {archive.digest, tree.digest}


@pytest.mark.parametrize("packed", [False, True])
def test_a_root_file_system_is_an_image(store: ImageStore, tmp_path: Path, packed: bool) -> None:
    """A folder or a tar, packed or not; the same files are the same image."""
    folder = tmp_path / "root"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/x").write_text("x")
    os.chown(folder / "bin/x", 1234, 5678)
    os.setxattr(folder / "bin/x", "user.sbx", b"1")
    (folder / "bin/x").chmod(0o4751)

    first = import_image(store, folder, "tree")
    if packed:
        words = ["tar", "--sort=name", "--numeric-owner", "-C", str(folder), "-cf", "-", "."]
        tar = subprocess.run(words, check=True, capture_output=True).stdout  # noqa: S603
        source = tmp_path / "t.tar.gz"
        source.write_bytes(gzip.compress(tar))
        import_image(store, source, "tree")
    else:
        assert import_image(store, folder, "tree").digest == first.digest
    found = store.find("tree:latest")

    assert found is not None
    facts = (found.rootfs / "bin/x").stat()
    assert (facts.st_uid, facts.st_gid, stat.S_IMODE(facts.st_mode)) == (1234, 5678, 0o4751)


HOSTILE: dict[str, list[Entry]] = {
    "dots": [("../escaped", b"x"), ("a/../../escaped", b"x")],
    "absolute": [("/{place}/escaped", b"x")],
    "link-then-file": [("out", "->{place}"), ("out/escaped", b"x")],
    "relative-link-then-file": [("out", "->" + "../" * 30 + "{place}"), ("out/escaped", b"x")],
    "link-then-directory": [("out", "->{place}"), ("out/escaped/", "/")],
    "link-over-link": [("a", "->{place}"), ("b", "->a"), ("b/escaped", b"x")],
    "file-over-link": [("f", "->{place}/victim"), ("f", b"overwritten")],
    "hard-link-out": [("h", "=>{place}/victim"), ("h", b"overwritten")],
    "hard-link-dots": [("h", "=>" + "../" * 30 + "{place}/victim"), ("h", b"overwritten")],
    "hard-link-through-link": [("l", "->{place}"), ("h", "=>l/victim"), ("h", b"overwritten")],
    "whiteout-out": [("l", "->{place}"), ("l/.wh.victim", b"")],
    "whiteout-dots": [(".wh...", b""), ("x/.wh...", b""), (".wh.", b"")],
    "opaque-out": [("l", "->{place}"), ("l/.wh..wh..opq", b"")],
    "root-is-a-link": [(".", "->{place}"), ("escaped", b"x")],
    "etc-is-a-link": [("etc", "->{place}"), ("etc/passwd", b"root:x:0:0::/:/bin/sh\n")],
}


@pytest.mark.parametrize("form", ["layer", "tree"])
@pytest.mark.parametrize("name", HOSTILE)
def test_no_archive_reaches_out_of_its_tree(
    store: ImageStore, tmp_path: Path, name: str, form: str
) -> None:
    """Whatever an archive says, nothing beside the store is made, changed or removed."""
    place = tmp_path / "outside"
    place.mkdir()
    (place / "victim").write_text("whole")
    entries: list[Entry] = []
    for entry, what in HOSTILE[name]:
        there = what.replace("{place}", str(place)) if isinstance(what, str) else what
        entries.append((entry.replace("{place}", str(place)), there))
    tar = tar_of(entries)
    source = docker_archive(tar_of([("x/", "/"), ("x/y", b"z")]), tar) if form == "layer" else tar
    before = sorted(p.name for p in tmp_path.iterdir() if p.name != "store")

    try:
        found: Stored | None = taken(store, source)
    except BadInput:
        found = None

    assert [p.name for p in place.iterdir()] == ["victim"]
    assert (place / "victim").read_text() == "whole"
    assert (place / "victim").stat().st_nlink == 1
    assert sorted({p.name for p in tmp_path.iterdir()} - {"store", "source.tar"}) == before
    assert list(store.root.glob("new/*")) == []
    assert found is None or not (found.place / "escaped").exists()


def test_devices_are_not_taken_along(store: ImageStore) -> None:
    """An image that brings device nodes loses them; pipes are harmless."""
    nodes: list[Entry] = [("null", tarfile.CHRTYPE[0]), ("disk", tarfile.BLKTYPE[0])]

    found = taken(store, tar_of([*nodes, ("pipe", tarfile.FIFOTYPE[0]), ("f", b"x")]))

    assert sorted(p.name for p in found.rootfs.iterdir()) == ["f", "pipe"]


def test_a_deep_image_is_taken_in_and_goes_again(store: ImageStore, tmp_path: Path) -> None:
    """Deeper than Python may call itself; what stays behind would be in the way of every import."""
    tar = tmp_path / "deep.tar"
    with tarfile.open(tar, "w") as archive:
        for depth in range(1, 1_050):
            folder = tarfile.TarInfo("d/" * depth)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(folder)
    import_image(store, tar, "deep")
    store.remove("deep")

    assert store.empty()
    assert list((store.root / "new").iterdir()) == []


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda data: data[: len(data) // 2], id="cut"),
        pytest.param(lambda _: b"not a tar at all" * 100, id="no-archive"),
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda data: gzip.compress(data)[:-20], id="gzip-cut"),
        pytest.param(lambda data: data.replace(b"payload", b"changed"), id="layer-changed"),
        pytest.param(lambda data: data.replace(b'"Layers"', b'"Player"'), id="no-layers"),
    ],
)
def test_a_spoilt_archive_leaves_nothing(
    store: ImageStore, spoil: Callable[[bytes], bytes]
) -> None:
    """What is cut, foreign or does not have the digest it says is refused as a whole."""
    whole = docker_archive(tar_of([("f", b"payload" * 1000)]))

    with pytest.raises(BadInput):
        taken(store, spoil(whole))

    assert store.all() == []
    assert list(store.root.glob("*/*")) == []


def test_a_changed_blob_of_a_layout_is_refused(store: ImageStore, tmp_path: Path) -> None:
    """Digests are checked: a layer that was changed on disk is not unpacked."""
    source, layout = tmp_path / "docker.tar", tmp_path / "layout"
    source.write_bytes(docker_archive(tar_of([("f", os.urandom(5000))])))
    words = ["skopeo", "--insecure-policy", "copy", f"docker-archive:{source}", f"oci:{layout}:t"]
    subprocess.run(words, check=True, capture_output=True)  # noqa: S603
    largest = max((layout / "blobs/sha256").iterdir(), key=lambda p: p.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)

    with pytest.raises(BadInput):
        import_image(store, layout, "x")

    assert store.all() == []


def test_a_name_moves_on_and_the_old_image_stays_until_removed(store: ImageStore) -> None:
    """An import under a known name leaves the old image to those who run it."""
    old = taken(store, tar_of([("f", b"1")]), "a/b:1").image
    new = taken(store, tar_of([("f", b"2")]), "a/b:1").image

    listed = [(named.name if named else None, image.digest) for named, image in store.all()]
    assert listed == [("a/b:1", new.digest), (None, old.digest)]
    assert store.remove(old.digest) == [old.digest]
    assert store.remove("a/b:1") == ["a/b:1", new.digest]
    assert (store.all(), store.empty()) == ([], True)
    with pytest.raises(ImageMissing):
        store.remove("a/b:1")


def test_a_store_that_others_can_write_to_is_refused(store: ImageStore) -> None:
    """Who can put an image there could run anything as whoever starts it."""
    taken(store, tar_of([("f", b"1")]))
    store.root.chmod(0o777)

    with pytest.raises(NotPermitted):
        store.check()
    with pytest.raises(NotPermitted):
        taken(store, tar_of([("f", b"2")]))


@pytest.mark.parametrize("name", ["", "Upper", "a b", "../x", "a@sha256:" + "0" * 64, "a" * 300])
def test_a_bad_name_is_refused(store: ImageStore, name: str) -> None:
    """An image is called as a topology can call it."""
    with pytest.raises(BadInput):
        taken(store, tar_of([("f", b"1")]), name)


def test_a_missing_tool_is_named(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without skopeo or umoci the sentence says what to install."""
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(SbxError, match="install it"):
        taken(store, tar_of([("f", b"1")]))


def test_the_command_imports_lists_and_removes(
    store: ImageStore, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """What a person types, in lines and as JSON."""
    (tmp_path / "r.tar").write_bytes(tar_of([("f", b"1")]))
    where = ["--images", str(store.root)]

    codes = [
        main(["image", "import", str(tmp_path / "r.tar"), "a/b", *where]),
        main(["image", "list", "--json", *where]),
        main(["image", "remove", "a/b", *where]),
        main(["image", "list", *where]),
        main(["image", "remove", "a/b", *where]),
    ]
    lines = capfdbinary.readouterr().out.splitlines()

    assert codes == [0, 0, 0, 0, 65]
    assert lines[0].endswith(b"1B  a/b:latest")
    assert json.loads(lines[1])["name"] == "a/b:latest"
    assert lines[2] == b"removed a/b:latest"


async def test_entrypoint_command_environment_and_user_are_the_images(
    oci_images: ImageStore, store: ImageStore, tmp_path: Path
) -> None:
    """As with docker: a command is for the entrypoint, and the image says as whom and with what."""
    stored = oci_images.find(oci_images.all()[0][1].digest)
    assert stored is not None
    busybox = stored.rootfs / "bin/busybox"
    layer = tar_of([
        ("bin/busybox", await asyncio.to_thread(busybox.read_bytes)), ("bin/sh", "->busybox"),
        ("etc/passwd", b"root:x:0:0::/:/bin/sh\nworker:x:1000:1001::/home/worker:/bin/sh\n"),
        ("etc/group", b"staff:x:1001:\nextra:x:1002:other,worker\n"),
    ])  # fmt: skip
    config: dict[str, object] = {
        "Entrypoint": ["/bin/sh", "-c"], "Cmd": ["echo default"], "Env": ["A=image", "B=image"],
        "User": "worker",
    }  # fmt: skip
    await asyncio.to_thread(taken, store, docker_archive(layer, config=config))
    work = tmp_path / "work"
    work.mkdir(mode=0o777)
    runtime = await OciRuntime.over(store, tmp_path / "state")

    async def says(*command: str) -> bytes:
        spec = ContainerSpec(
            name="sbx-t.m.a", image="a/b", command=command, env={"B": "spec"}, labels={},
            work=str(work),
        )  # fmt: skip
        run = await runtime.adopt_or_start(spec)
        await run.wait()
        said = (await run.logs(1000)).stdout
        await runtime.remove(spec.name)
        return said

    default = await says()
    told = await says("echo $A $B $HOME $(busybox id -u) $(busybox id -G)")
    await runtime.close()

    assert default == b"default\n"
    assert told == b"image spec /home/worker 1000 1001 1002\n"
