"""Unpacking images for the `oci` runtime, by skopeo and umoci.

What an archive says is believed by those two only: they check digests, keep every path inside the
tree, follow no link while they unpack and read whiteouts. We choose the words to call them with.
"""

import contextlib
import gzip
import lzma
import os
import shutil
import stat
import subprocess
import tarfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, cast

import msgspec

from scalebox_actors.errors import UNREADABLE, BadInput, Unavailable
from scalebox_actors.runtimes.oci_images import DIGEST, Image, ImageStore, normal
from scalebox_actors.topology.reference import image_fault

TAG = "image"
MEMBERS = 1_000_000
"""The most members of an archive that are looked at to find out what it is."""
MANIFEST_BYTES = 1 << 20
DAMAGED = (
    *(OSError, tarfile.TarError, EOFError, lzma.LZMAError, zlib.error),
    *(ValueError, OverflowError),  # what the headers of a member say
)
"""What comes out of reading an archive that is damaged or means harm."""
GZIP, XZ = b"\x1f\x8b", b"\xfd7"
_REASON = 400


def import_image(store: ImageStore, source: Path, name: str) -> Image:
    """Take an image into the store under a name, and return it.

    `source` is an archive of `docker save`, an OCI archive or layout, or a root file system as a
    folder or a tar. Its files get their owners if root imports them, else they are this user's.
    Raises BadInput, NotPermitted for a store of somebody else, or Unavailable without a tool.
    """
    if fault := image_fault(name):
        raise BadInput(f"image name {name!r}: {fault}")
    if normal(name)[1]:
        raise BadInput(f"image name {name!r}: a name to import by has no digest")
    kind = kind_of(source)
    with store.adding() as folder:
        layout = folder / "layout"
        if kind == "tree":
            _layout_of_tree(source.absolute(), layout)
        else:
            # The tools take what follows a colon for a tag, so they are told short names.
            (folder / "source").symlink_to(source.absolute())
            _run(folder, "skopeo", "--insecure-policy", "copy", "--quiet",
                 f"{kind}:source", f"oci:layout:{TAG}")  # fmt: skip
        whole = folder / "whole"
        whole.mkdir(mode=0o700)
        rootfs = whole / "rootfs"
        how = () if os.getuid() == 0 else ("--rootless",)
        _run(folder, "umoci", "raw", "unpack", *how, "--image", f"layout:{TAG}", str(rootfs))
        image = _image_of(layout, tree=kind == "tree")
        image = msgspec.structs.replace(image, size=_swept(rootfs), imported=time.time())
        store.add(whole, image, name)
    return image


def kind_of(source: Path) -> str:
    """Return what skopeo calls a source, or `tree` for a root file system; BadInput if neither."""
    if source.is_dir():
        return "oci" if (source / "oci-layout").is_file() else "tree"
    names: set[str] = set()
    try:
        with tarfile.open(source, "r:*") as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                names.add(name)
                if name == "manifest.json" and _is_dockers(archive, member):
                    return "docker-archive"
                if len(names) > MEMBERS:
                    break
    except DAMAGED as error:
        raise BadInput(f"{source}: cannot be read as an archive: {error}") from error
    return "oci-archive" if "oci-layout" in names else "tree"


def _is_dockers(archive: tarfile.TarFile, manifest: tarfile.TarInfo) -> bool:
    """Whether this is the list of images of `docker save`: a root may have a file of that name."""
    if not manifest.isfile():
        return False
    file = archive.extractfile(manifest)
    try:
        return isinstance(msgspec.json.decode(file.read(MANIFEST_BYTES) if file else b""), list)
    except msgspec.DecodeError:
        return False


def _layout_of_tree(source: Path, layout: Path) -> None:
    """Make an image of one layer out of a root file system."""
    folder = layout.parent
    tar = folder / "layer.tar"
    if source.is_dir():
        # Without when it was looked at and by which process: the same files are the same bytes.
        _run(folder, "tar", "--sort=name", "--numeric-owner", "--xattrs", "-C", str(source),
             "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
             "-cf", str(tar), ".")  # fmt: skip
    else:
        _copy_unpacked(source, tar)
    _run(folder, "umoci", "init", "--layout", layout.name)
    _run(folder, "umoci", "new", "--image", f"{layout.name}:{TAG}")
    _run(folder, "umoci", "raw", "add-layer", "--image", f"{layout.name}:{TAG}", str(tar))
    tar.unlink()


def _copy_unpacked(source: Path, tar: Path) -> None:
    with source.open("rb") as file:
        start = file.read(2)
    try:
        with _opened(source, start) as packed, tar.open("wb") as plain:
            shutil.copyfileobj(packed, plain, 1 << 20)
    except DAMAGED as error:
        raise BadInput(f"{source}: cannot be read: {error}") from error


def _opened(source: Path, start: bytes) -> IO[bytes]:
    if start == GZIP:
        return cast("IO[bytes]", gzip.open(source, "rb"))
    return cast("IO[bytes]", lzma.open(source, "rb") if start == XZ else source.open("rb"))


class _Descriptor(msgspec.Struct, frozen=True):
    digest: str


class _Index(msgspec.Struct, frozen=True):
    manifests: tuple[_Descriptor, ...]


class _Manifest(msgspec.Struct, frozen=True):
    config: _Descriptor


class _Settings(msgspec.Struct, frozen=True, rename="pascal"):
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    env: tuple[str, ...] | None = None
    user: str | None = None


class _Layers(msgspec.Struct, frozen=True):
    diff_ids: tuple[str, ...]


class _Config(msgspec.Struct, frozen=True):
    rootfs: _Layers
    config: _Settings | None = None


def _image_of(layout: Path, *, tree: bool) -> Image:
    """Read what a layout of one image says; a tree is known by the digest of its tar."""
    try:
        index = msgspec.json.decode((layout / "index.json").read_bytes(), type=_Index)
        digest = index.manifests[0].digest
        manifest = msgspec.json.decode(_blob(layout, digest), type=_Manifest)
        config = msgspec.json.decode(_blob(layout, manifest.config.digest), type=_Config)
    except (OSError, IndexError, *UNREADABLE) as error:
        raise BadInput(f"the image's configuration cannot be read: {error}") from error
    own = config.config or _Settings()
    return Image(
        digest=config.rootfs.diff_ids[0] if tree else digest,
        entrypoint=own.entrypoint or (),
        command=own.cmd or (),
        env=own.env or (),
        user=own.user or "",
    )


def _blob(layout: Path, digest: str) -> bytes:
    return (layout / "blobs" / "sha256" / digest.removeprefix(DIGEST)).read_bytes()


def _swept(rootfs: Path) -> int:
    """Remove device nodes, which no image may bring along, and return the size of all files."""
    size, folders = 0, [str(rootfs)]
    while folders:
        with contextlib.suppress(PermissionError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                facts = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(facts.st_mode):
                    folders.append(entry.path)
                elif stat.S_ISBLK(facts.st_mode) or stat.S_ISCHR(facts.st_mode):
                    os.unlink(entry.path)  # noqa: PTH108
                elif stat.S_ISREG(facts.st_mode):
                    size += facts.st_size
    return size


def _run(folder: Path, program: str, *words: str) -> None:
    """Run a tool in a folder; raises BadInput with its last words, or Unavailable without it."""
    found = shutil.which(program)
    if found is None:
        raise Unavailable(f"{program} is needed to import images: {_hint(program)}")
    environment = {"PATH": os.environ.get("PATH", os.defpath), "TMPDIR": str(folder), "HOME": "/"}
    done = subprocess.run(  # noqa: S603 - a list of words, no shell
        [found, *words], env=environment, capture_output=True, check=False, cwd=folder
    )
    if done.returncode != 0:
        raise BadInput(f"{program}: {_last(done.stderr)}")


def _hint(program: str) -> str:
    return f"install it (Debian: apt install {program})"


def _last(stderr: bytes) -> str:
    lines: Sequence[str] = [
        line.strip() for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()
    ]
    return lines[-1][-_REASON:] if lines else "it failed and said nothing"
