"""Who a container of the `oci` runtime runs as: user, group and home by the image's own files."""

import os
import stat
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import msgspec

FILE_BYTES = 1 << 20
LINKS = 40
HIGHEST = (1 << 32) - 2
DIGITS = 10


class UnknownUserError(Exception):
    """The image does not have this user or group."""


class Identity(msgspec.Struct, frozen=True):
    """The numbers that a program runs with, and its home."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/"


@lru_cache(maxsize=1024)
def identity(rootfs: Path, user: str) -> Identity:
    """Return who `user`, `user:group` or their numbers are in an image; empty is root.

    Raises UnknownUserError. Numbers need not be known to the image.
    """
    who, _, group = user.partition(":")
    users = list(_lines(rootfs, "etc/passwd", numbers=slice(2, 4), least=6))
    groups = list(_lines(rootfs, "etc/group", numbers=slice(2, 3), least=3))
    known = next((u for u in users if u[0] == who or u[2] == (who or "0")), None)
    if known is None and not _is_id(who or "0"):
        raise UnknownUserError(f"unable to find user {who}: the image does not have it")
    uid = int(known[2]) if known else int(who or 0)
    gid = int(known[3]) if known else 0
    home = known[5] or "/" if known else "/"
    if group:
        return Identity(uid, _group(groups, group), (), home)
    others = {int(g[2]) for g in groups if known and known[0] in ",".join(g[3:]).split(",")}
    return Identity(uid, gid, tuple(sorted(others - {gid})), home)


def _group(groups: list[list[str]], wanted: str) -> int:
    found = next((g for g in groups if wanted in (g[0], g[2])), None)
    if found is None and not _is_id(wanted):
        raise UnknownUserError(f"unable to find group {wanted}: the image does not have it")
    return int(found[2]) if found else int(wanted)


def _is_id(text: str) -> bool:
    # An image may have thousands of digits there, of which Python makes no number.
    digits = text.isascii() and text.isdigit() and len(text) <= DIGITS
    return digits and int(text) <= HIGHEST


def _lines(rootfs: Path, path: str, *, numbers: slice, least: int) -> Iterator[list[str]]:
    for line in _text(inside(rootfs, path)).splitlines():
        words = line.split(":")
        if len(words) >= least and all(_is_id(word) for word in words[numbers]):
            yield words


def _text(path: Path) -> str:
    """Return a file of the image, which may be anything, as text."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        regular = stat.S_ISREG(os.fstat(handle).st_mode)
        return os.read(handle, FILE_BYTES).decode("utf-8", "replace") if regular else ""
    finally:
        os.close(handle)


def inside(rootfs: Path, path: str) -> Path:
    """Return where a path of an image really lies, its links read as the image means them."""
    parts, place, links = path.split("/")[::-1], [""], 0
    while parts:
        part = parts.pop()
        if part in ("", "."):
            continue
        if part == "..":
            place = place[:-1] or [""]
            continue
        here = Path(f"{rootfs}{'/'.join(place)}/{part}")
        try:
            if not here.is_symlink():
                place.append(part)
                continue
            target = os.readlink(here)  # noqa: PTH115 - Path would drop what leads nowhere
        except OSError:  # a name that no file can have
            return rootfs / "absent"
        links += 1
        if links > LINKS:
            return rootfs / "absent"
        if target.startswith("/"):
            place = [""]
        parts += target.split("/")[::-1]
    return Path(f"{rootfs}{'/'.join(place)}")
