"""Durations and sizes as people write them, and back without losing a bit."""

import math
import re

from scalebox_actors.topology.model import Duration, Size

DURATION_FORM = "a number of seconds or `300ms`, `90s`, `10m`, `1h30m`, `2d`"
SIZE_FORM = "a whole number of bytes or `64KiB`, `256MiB`, `1GiB`, `10GB`"

DURATION_GRAMMAR = (
    r"(?=[0-9])(?:([0-9]{1,15}(?:\.[0-9]{1,9})?)d)?(?:([0-9]{1,15}(?:\.[0-9]{1,9})?)h)?"
    r"(?:([0-9]{1,15}(?:\.[0-9]{1,9})?)m(?!s))?(?:([0-9]{1,15}(?:\.[0-9]{1,9})?)s)?"
    r"(?:([0-9]{1,15}(?:\.[0-9]{1,9})?)ms)?"
)
SIZE_GRAMMAR = r"([0-9]{1,18}(?:\.[0-9]{1,9})?)([KMGT]i?B|kB|B)"
_DURATION = re.compile(DURATION_GRAMMAR)
_SIZE = re.compile(SIZE_GRAMMAR)
_SECONDS = (86_400.0, 3_600.0, 60.0, 1.0, 0.001)
_UNITS = {
    "B": 1,
    **{f"{letter}B": 1000**power for power, letter in enumerate("KMGT", start=1)},
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", start=1)},
    "kB": 1000,
}
_LARGEST = 2**63


def parse_duration(value: str | float) -> Duration | None:
    """Read a duration; None if `value` is not written like one."""
    if not isinstance(value, str):
        return Duration(value) if math.isfinite(value) else None
    found = _DURATION.fullmatch(value)
    if found is None:
        return None
    return Duration(
        sum(float(n) * unit for n, unit in zip(found.groups(), _SECONDS, strict=True) if n)
    )


def parse_size(value: str | int) -> Size | None:
    """Read a size; None if `value` is not written like one or is no whole number of bytes."""
    if not isinstance(value, str):
        return Size(value)
    found = _SIZE.fullmatch(value)
    if found is None:
        return None
    number, unit = found.groups()
    whole, _, part = number.partition(".")
    size = int(whole) * _UNITS[unit]
    if part:
        share, rest = divmod(int(part) * _UNITS[unit], 10 ** len(part))
        if rest:
            return None
        size += share
    return Size(size) if size < _LARGEST else None


def show_duration(duration: float) -> str | float:
    """Write a duration so that `parse_duration` gives exactly the same one."""
    if not 0 < duration < _LARGEST:  # also what is not a number, or too large for one
        return float(duration)
    if duration == int(duration):
        return _units(int(duration))
    thousandths = duration * 1000
    text = f"{int(thousandths)}ms"
    if thousandths >= 1 and parse_duration(text) == duration:
        return text
    return float(duration)


def show_size(size: int) -> str | int:
    """Write a size so that `parse_size` gives exactly the same one."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size > 0 and size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]}{unit}"
    return int(size)


def _units(seconds: int) -> str:
    text = ""
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, seconds = divmod(seconds, length)
        text += f"{count}{unit}" if count else ""
    return text
