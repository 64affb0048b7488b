"""The grammar of image references: `[host[:port]/]path[:tag][@algorithm:hex]`."""

import re

_LONGEST = 255
_DIGITS = {"sha256": 64, "sha384": 96, "sha512": 128}

_LABEL = r"[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9]"
_HOST = re.compile(rf"(?:{_LABEL})(?:\.(?:{_LABEL}))*(?::[0-9]{{1,5}})?")
_PART = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_HEX = re.compile(r"[0-9a-f]+")


def is_pinned(image: str) -> bool:
    """Whether a well-formed reference says which version is meant: by tag or by digest."""
    return "@" in image or ":" in image.rpartition("/")[2]


def image_fault(image: str) -> str:
    """Return what is wrong with an image reference, or nothing."""
    if "://" in image:
        return "leave out the part up to `://`"
    rest, at, digest = image.partition("@")
    name, colon, tag = rest, "", ""
    if ":" in rest.rpartition("/")[2]:
        name, colon, tag = rest.rpartition(":")
    if colon and not _TAG.fullmatch(tag):
        return "the tag after `:` has letters, digits, `_`, `.`, `-`, at most 128"
    if at and (fault := _digest_fault(digest)):
        return fault
    return _name_fault(name)


def _digest_fault(digest: str) -> str:
    algorithm, _, value = digest.partition(":")
    if algorithm not in _DIGITS:
        return f"the digest after `@` begins with one of {', '.join(_DIGITS)} and `:`"
    if len(value) != _DIGITS[algorithm] or not _HEX.fullmatch(value):
        return f"a {algorithm} digest has {_DIGITS[algorithm]} hexadecimal digits in lower case"
    return ""


def _name_fault(name: str) -> str:
    if not name:
        return "the name is empty"
    if len(name) > _LONGEST:
        return f"the name has {len(name)} characters; at most {_LONGEST} are allowed"
    first, slash, rest = name.partition("/")
    has_host = bool(slash) and (any(c in first for c in ".:") or first == "localhost")
    if has_host and not _HOST.fullmatch(first):
        return "the part before the first `/` is no host"
    path = rest if has_host else name
    if all(_PART.fullmatch(part) for part in path.split("/")):
        return ""
    if path != path.lower():
        return "names are in lower case"
    return "names have lower-case letters and digits, parted by `/` or singly by `.`, `_`, `-`"
