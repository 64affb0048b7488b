"""The images of the `oci` runtime: unpacked once, by digest, shared read-only by all runs.

Layout of a store, which belongs to one user and to nobody else:

    images/<hex>/rootfs, image.json, lock   an image by its digest; runs hold the lock
    names/<hash of the name>                 which digest a name means
    new/                                     imports that are not whole yet, and what is to go
    lock                                     whoever changes the store holds it

An image appears by a rename and a name by another, so what is there is whole. Everything blocks.
"""

import contextlib
import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from scalebox_actors.errors import UNREADABLE, ImageMissing, NotPermitted, SbxError, Unavailable
from scalebox_actors.runtimes.shepherd_kernel import sync_file_system
from scalebox_actors.trees import clear_tree

DIGEST = "sha256:"
_HUB = ("docker.io/library/", "docker.io/", "index.docker.io/")
_encode, _decode = msgspec.json.encode, msgspec.json.decode
DAMAGED = (OSError, *UNREADABLE)
"""What a file raises that is not there, or that a power cut has left damaged: it means nothing."""


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """What an image says of itself."""

    digest: str
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""
    size: int = 0
    """Bytes of its files, once unpacked."""
    imported: float = 0.0


class Stored(msgspec.Struct, frozen=True):
    """An image in the store and where it lies."""

    image: Image
    place: Path

    @property
    def rootfs(self) -> Path:
        """Its root file system; never to be written to."""
        return self.place / "rootfs"

    @property
    def lock(self) -> Path:
        """What a run holds as long as it uses the image."""
        return self.place / "lock"


class Named(msgspec.Struct, frozen=True, kw_only=True):
    """A name and the digest that it means."""

    name: str
    digest: str


class ImageStore:
    """The images of one user on this host."""

    def __init__(self, root: Path) -> None:
        # Of whoever is told a path, the shepherd and its keepers are in other directories.
        self.root = root = root.absolute()
        self._images, self._names, self._new = (root / n for n in ("images", "names", "new"))

    def find(self, reference: str) -> Stored | None:
        """Return the image that a reference means, `name`, `name:tag` or `name@digest`.

        A name beside a digest counts, whatever its tag: an operator's ceiling is one of names.
        """
        name, digest = normal(reference)
        if not digest:
            named = self._named(self._name_file(name))
            return self._at(named.digest) if named is not None else None
        if name and not self._is_called(digest, name):
            return None
        return self._at(digest)

    def _is_called(self, digest: str, name: str) -> bool:
        """Whether an image has a name of the same repository."""
        repository = name.rpartition(":")[0]
        return any(
            named.digest == digest and named.name.rpartition(":")[0] == repository
            for named in self._all_names()
        )

    def all(self) -> list[tuple[Named | None, Image]]:
        """Return every image by name, and those that no name means any more."""
        names = self._all_names()
        rows: list[tuple[Named | None, Image]] = []
        for place in sorted(self._images.glob("*")):
            stored = self._at(DIGEST + place.name)
            if stored is not None:
                own = [named for named in names if named.digest == stored.image.digest]
                rows += [(named, stored.image) for named in own] or [(None, stored.image)]
        return sorted(rows, key=lambda row: row[0].name if row[0] else "~" + row[1].digest)

    def empty(self) -> bool:
        """Whether there is no image, or no store at all."""
        return not any(self._images.glob("*/image.json"))

    @contextlib.contextmanager
    def adding(self) -> Iterator[Path]:
        """Give an empty folder for an import; no one else changes the store meanwhile."""
        with self._locked():
            for left in self._new.iterdir():  # of an import that was killed
                clear_tree(left)
            folder = Path(tempfile.mkdtemp(dir=self._new))
            try:
                yield folder
            finally:
                clear_tree(folder)

    def add(self, whole: Path, image: Image, name: str) -> None:
        """Take in an unpacked image, the `rootfs` in a folder, under a name; while `adding`.

        Only the folder is moved: of a root that nobody may write to only root could do that.
        """
        place = self._images / image.digest.removeprefix(DIGEST)
        if self._at(image.digest) is None:
            clear_tree(place)
            (whole / "lock").touch(mode=0o600)
            (whole / "image.json").write_bytes(_encode(image))
            sync_file_system(str(whole))  # a power cut must not leave a name for half an image
            whole.rename(place)
            _sync(self._images)
        full, _ = normal(name)
        file = self._name_file(full)
        fresh = file.with_name(f".{file.name}")
        fresh.write_bytes(_encode(Named(name=full, digest=image.digest)))
        _sync(fresh)
        fresh.rename(file)
        _sync(self._names)

    def remove(self, reference: str) -> list[str]:
        """Remove a name, and the image if no other name means it; return what went.

        Raises ImageMissing, or Unavailable while a container uses the image.
        """
        with self._locked():
            stored = self.find(reference)
            if stored is None:
                raise ImageMissing(f"there is no image {reference!r}")
            digest = stored.image.digest
            meant, by_digest = normal(reference)
            names = [named.name for named in self._all_names() if named.digest == digest]
            going = names if by_digest else [meant]
            if set(going) == set(names):
                self._remove_image(stored)
            for name in going:
                self._name_file(name).unlink(missing_ok=True)
            return [*going, *([digest] if set(going) == set(names) else [])]

    def _remove_image(self, stored: Stored) -> None:
        with stored.lock.open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Unavailable(f"image {stored.image.digest} is in use by a run") from None
            gone = self._new / f"{time.time_ns()}.gone"
            stored.place.rename(gone)
        # Killed here, the next import removes the rest; the names lead nowhere, which is no image.
        clear_tree(gone)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._make()
        with (self.root / "lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _make(self) -> None:
        try:
            for folder in (self.root, self._images, self._names, self._new):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SbxError(f"image store {self.root}: {error.strerror}") from error
        self.check()

    def check(self) -> None:
        """Raise NotPermitted for a store that somebody else could put an image into."""
        try:
            facts = self.root.lstat()
        except FileNotFoundError:
            return
        if self.root.is_symlink() or facts.st_uid != os.getuid() or facts.st_mode & 0o022:
            raise NotPermitted(f"{self.root} must belong to this user and be writable by no other")

    def _at(self, digest: str) -> Stored | None:
        place = self._images / digest.removeprefix(DIGEST)
        try:
            return Stored(_decode((place / "image.json").read_bytes(), type=Image), place)
        except DAMAGED:
            return None

    def _all_names(self) -> list[Named]:
        found = (self._named(path) for path in self._names.glob("[!.]*"))
        return [named for named in found if named is not None]

    def _named(self, path: Path) -> Named | None:
        try:
            return _decode(path.read_bytes(), type=Named)
        except DAMAGED:
            return None

    def _name_file(self, name: str) -> Path:
        return self._names / hashlib.sha256(name.encode()).hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def normal(reference: str) -> tuple[str, str]:
    """Return the full name that a reference means, with its tag, and the digest if it has one."""
    name, _, digest = reference.partition("@")
    if reference.startswith(DIGEST):
        return "", reference
    for prefix in _HUB:
        name = name.removeprefix(prefix)
    if ":" not in name.rpartition("/")[2]:
        name += ":latest"
    return name, digest
