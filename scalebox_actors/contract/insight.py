"""What a run says about itself: times, files, network. Nothing here fails a run."""

import datetime as dt
import re
from collections.abc import Iterable

from scalebox_actors.contract.texts import Line, Notes
from scalebox_actors.contract.values import FileEntry

_TIME = r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))?(Z|[+-]\d\d:?\d\d)?"
# The longest time wins, so the digits behind a decimal comma are a fraction and not a label.
_TIME_FIRST = re.compile(rf"{_TIME}(?:,(.*))?", re.ASCII)
_TIME_LAST = re.compile(rf"(.*),{_TIME}", re.ASCII)
_FILE = re.compile(r"(.*?)(?:,([0-9]{1,18}))?", re.DOTALL)
_NETWORK_FIELDS = (4, 5)
_MINUTES = 60


def timestamps(
    lines: Iterable[Line], source: str, notes: Notes, zone: dt.tzinfo | None
) -> list[list[str]]:
    """Return `[time, label]` in order; a time without zone is one of `zone`, if that is given.

    Times are ISO 8601 text, so that no digit of a fraction is lost.
    """
    found = []
    for line in lines:
        mark = _timestamp(line.text.strip(), zone)
        if mark is None:
            notes.warn(f"{source}:{line.number}: no time found")
        else:
            found.append(mark)
    return found


def file_entries(lines: Iterable[Line], source: str, notes: Notes) -> tuple[FileEntry, ...]:
    """Return the files of `<absolute path>[,<bytes>]` lines."""
    found = []
    for line in lines:
        match = _FILE.fullmatch(line.text)
        path, size = match.groups() if match else ("", None)
        if _is_path(path):
            found.append(FileEntry(path=path, bytes=int(size) if size else None))
        else:
            notes.warn(f"{source}:{line.number}: not an absolute path")
    return tuple(found)


def removed_paths(lines: Iterable[Line], source: str, notes: Notes) -> tuple[str, ...]:
    """Return the paths that may be deleted once the run is committed."""
    found = []
    for line in lines:
        if _is_path(line.text):
            found.append(line.text)
        else:
            notes.warn(f"{source}:{line.number}: not an absolute path; nothing is deleted for it")
    return tuple(found)


def network_io(lines: Iterable[Line], source: str, notes: Notes) -> list[dict[str, object]]:
    """Return what went over the network; an empty host is the run's own node.

    `path` is given, and `io_bytes` and perhaps `net_bytes` are None, where the caller must measure.
    """
    found = []
    for line in lines:
        entry = _network_entry(line.text)
        if entry is None:
            notes.warn(f"{source}:{line.number}: not `from|to,host,path or bytes,path[,bytes]`")
        else:
            found.append(entry)
    return found


def _timestamp(text: str, zone: dt.tzinfo | None) -> list[str] | None:
    if match := _TIME_FIRST.fullmatch(text):
        date, clock, fraction, offset, label = match.groups()
    elif match := _TIME_LAST.fullmatch(text):
        label, date, clock, fraction, offset = match.groups()
    else:
        return None
    try:
        moment = dt.datetime.fromisoformat(f"{date}T{clock}")
        where = _offset(offset) if offset else _zone_offset(moment, zone)
    except (ValueError, OverflowError):
        return None
    return [f"{date}T{clock}{'.' + fraction if fraction else ''}{where}", (label or "").strip()]


def _offset(text: str) -> str:
    """Return a written offset as `±HH:MM`; raises ValueError if there is no such offset."""
    if text == "Z":
        return "+00:00"
    hours, minutes = int(text[1:3]), int(text[-2:])
    dt.timezone(dt.timedelta(hours=hours, minutes=minutes))
    if minutes >= _MINUTES:
        raise ValueError(text)
    return f"{text[0]}{hours:02}:{minutes:02}"


def _zone_offset(moment: dt.datetime, zone: dt.tzinfo | None) -> str:
    return "" if zone is None else moment.replace(tzinfo=zone).isoformat()[19:25]


def _network_entry(text: str) -> dict[str, object] | None:
    fields = text.split(",")
    if len(fields) not in _NETWORK_FIELDS or fields[0] not in {"from", "to"} or not fields[1]:
        return None
    direction, host, local, remote, *rest = fields
    local_bytes, remote_bytes = _count(local), _count(rest[0]) if rest else None
    if (local_bytes is None and not _is_path(local)) or (rest and remote_bytes is None):
        return None
    return {
        "from_host": host if direction == "from" else "",
        "to_host": host if direction == "to" else "",
        "net_bytes": local_bytes if remote_bytes is None else remote_bytes,
        "io_bytes": local_bytes,
        "path": "" if local_bytes is not None else local,
        "remote_path": remote,
    }


def _count(text: str) -> int | None:
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def _is_path(text: str) -> bool:
    return text.startswith("/") and "\0" not in text
