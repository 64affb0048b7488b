#!/usr/bin/env python3
"""Make a container image out of Debian packages, without a registry and without a builder.

The packages and all that they depend on are resolved and fetched by apt, unpacked (their
maintainer scripts are not run), trimmed, packed and imported over the engine's API. An image that
was made of the same recipe before is left as it is.

    debian_image.py image NAME [--app DIR] [--env K=V]… [--without PACKAGE]… PACKAGE…
    debian_image.py unpack DIR PACKAGE…     the packages alone, into a folder of the host
"""

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from engine import Engine, EngineError, find

BUILD = Path(__file__).resolve().parent.parent / ".build"
LABEL = "sbx.recipe"
NEEDLESS = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/lintian",
    "usr/share/bug",
    "usr/lib/x86_64-linux-gnu/gconv",
)
BINS = ("bin", "usr/bin", "sbin", "usr/sbin")
USERS = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"
GROUPS = "root:x:0:\nnogroup:x:65534:\n"


class BuildError(Exception):
    """The image cannot be made, and this is why."""


class Recipe:
    """What an image is made of."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.name: str = options.name
        self.packages: list[str] = options.packages
        self.without: list[str] = options.without
        self.app: Path | None = options.app
        self.env: list[str] = options.env

    def label(self) -> str:
        """Hash everything that decides what the image holds, but for the packages' versions."""
        digest = hashlib.sha256(Path(__file__).read_bytes())
        digest.update(json.dumps([self.packages, self.without, self.env]).encode())
        for path in self.app_files():
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
        return digest.hexdigest()

    def app_files(self) -> list[Path]:
        """Return the programs that go to /app."""
        return sorted(p for p in self.app.iterdir() if p.is_file()) if self.app else []

    def changes(self) -> list[str]:
        """Return the image's settings, in the engine's Dockerfile-like words."""
        env = ["PATH=/usr/local/bin:/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE=1", *self.env]
        return [
            *(f"ENV {pair}" for pair in env),
            'CMD ["/bin/sh"]',
            f"LABEL {LABEL}={self.label()}",
        ]


def fetch(packages: Sequence[str], *, alone: bool = False) -> list[Path]:
    """Return the package files of a closure, fetched or found from an earlier time.

    First with the machine's own package lists; where those are missing or too old, with fresh
    ones of our own, which needs no root.
    """
    try:
        return _fetch(packages, alone=alone, own_lists=False)
    except BuildError:
        lists = BUILD / "apt" / "lists"
        lists.mkdir(parents=True, exist_ok=True)
        _apt(["update"], own_lists=True)  # one index of many may fail; the next line decides
        return _fetch(packages, alone=alone, own_lists=True)


def _fetch(packages: Sequence[str], *, alone: bool, own_lists: bool) -> list[Path]:
    archives = BUILD / "debs"
    (archives / "partial").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as empty:
        named = _names(packages, empty, alone=alone, own_lists=own_lists)
    if not all((archives / name).exists() for name in named):
        options = ["-o", f"Dir::Cache::archives={archives}", "--download-only"]
        _must(["install", *options, *packages], own_lists=own_lists)
    return [archives / name for name in named]


def _names(packages: Sequence[str], empty: str, *, alone: bool, own_lists: bool) -> list[str]:
    options = ["-o", f"Dir::Cache::archives={empty}", "--print-uris"]
    printed = _must(["install", *options, *packages], own_lists=own_lists)
    names = [line.split()[1] for line in printed.splitlines() if line.startswith("'")]
    return [name for name in names if not alone or name.partition("_")[0] in packages]


def _must(arguments: Sequence[str], *, own_lists: bool) -> str:
    done = _apt(arguments, own_lists=own_lists)
    if done.returncode != 0:
        raise BuildError(f"apt-get {' '.join(arguments)} failed:\n{done.stderr.strip()}")
    return done.stdout


def _apt(arguments: Sequence[str], *, own_lists: bool) -> subprocess.CompletedProcess[str]:
    """Run apt-get as if nothing were installed, and without touching what is."""
    status = BUILD / "apt" / "status"
    status.parent.mkdir(parents=True, exist_ok=True)
    status.touch()
    options = {
        "Dir::State::status": status,
        "Dir::Cache": status.parent,
        "APT::Sandbox::User": "root",
        "APT::Install-Recommends": "false",
        "Debug::NoLocking": "true",
    }
    if own_lists:
        options["Dir::State::lists"] = status.parent / "lists"
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    command = ["apt-get", "-q", "-y", *words, *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no shell
    except FileNotFoundError as error:
        raise BuildError("the image is made of Debian packages, and there is no apt-get") from error


def unpack(debs: Sequence[Path], root: Path, without: Sequence[str] = ()) -> None:
    """Unpack package files into a folder."""
    root.mkdir(parents=True, exist_ok=True)
    for deb in debs:
        if deb.name.partition("_")[0] not in without:
            subprocess.run(["dpkg-deb", "-x", deb, root], check=True)  # noqa: S603, S607 - no shell


def furnish(root: Path, recipe: Recipe) -> None:
    """Turn unpacked packages into a root file system that programs can live in."""
    for path in NEEDLESS:
        shutil.rmtree(root / path, ignore_errors=True)
    for path in ("app", "dev", "etc", "proc", "root", "sys", "tmp", "work", "usr/local/bin"):
        (root / path).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    (root / "etc/passwd").write_text(USERS)
    (root / "etc/group").write_text(GROUPS)
    for program in recipe.app_files():
        shutil.copy(program, root / "app")
        (root / "app" / program.name).chmod(0o755)
    _link_busybox(root)


def _link_busybox(root: Path) -> None:
    """Link the tools of busybox, where no package brought the real one."""
    busybox = root / "bin/busybox"
    if not busybox.exists():
        return
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)  # noqa: S603
    for tool in listed.stdout.split():
        if not any((root / d / tool).is_symlink() or (root / d / tool).exists() for d in BINS):
            (root / "bin" / tool).symlink_to("busybox")


def build(recipe: Recipe, engine: Engine) -> str:
    """Make the image, unless the engine has it, and say what was done."""
    if engine.labels(recipe.name).get(LABEL) == recipe.label():
        return f"{recipe.name}: there already"
    begun = time.monotonic()
    with alone(), tempfile.TemporaryDirectory(dir=BUILD) as folder:
        root = Path(folder, "root")
        unpack(fetch(recipe.packages), root, recipe.without)
        furnish(root, recipe)
        with Path(folder, "tar").open("w+b") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
                tar.add(root, arcname=".", filter=_as_root)
            size = file.tell()
            file.seek(0)
            engine.import_image(recipe.name, file, recipe.changes())
    return f"{recipe.name}: {size / 1e6:.0f} MB, made in {time.monotonic() - begun:.1f} s"


def _as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


@contextmanager
def alone() -> Iterator[None]:
    """Keep a second builder of this checkout waiting: they share the fetched packages."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def read_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    words = parser.add_subparsers(dest="word", required=True)
    image = words.add_parser("image", help="make an image and give it to the engine")
    image.add_argument("name")
    image.add_argument("--app", type=Path, help="folder whose files go to /app")
    image.add_argument("--env", action="append", default=[], metavar="K=V")
    image.add_argument("--without", action="append", default=[], metavar="PACKAGE")
    image.add_argument("packages", nargs="+", metavar="PACKAGE")
    folder = words.add_parser("unpack", help="unpack packages into a folder")
    folder.add_argument("folder", type=Path)
    folder.add_argument("packages", nargs="+", metavar="PACKAGE")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Do what the command line says."""
    options = read_options(arguments)
    if options.word == "unpack":
        with alone():
            unpack(fetch(options.packages, alone=True), options.folder)
        return
    engine = find()
    if engine is None:
        raise BuildError(
            f"no container engine answers on {os.environ.get('DOCKER_HOST') or 'the usual socket'}"
        )
    print(build(Recipe(options), engine))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (BuildError, EngineError) as refusal:
        sys.exit(f"debian_image: {refusal}")
