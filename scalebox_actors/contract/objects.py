"""Where JSON objects begin and end inside a line of text, in time linear in the line.

A line may hold a million `,{`. Trying a JSON parser at each would take hours, so brackets are
matched here, strings respected, and a parser looks only at what is left. From two places of one
line the matching differs at most in what it takes for inside and outside of strings; so no
place is looked at more than twice.
"""

import re

import msgspec

from scalebox_actors.errors import BadOutput

_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+("?)|[{}\[\]\\]', re.DOTALL)
_CANDIDATE = re.compile(r"(?<!\\),(?=\{)")
_PARTNER = {"}": "{", "]": "["}
_DEPTH = 1000


def object_end(line: str, start: int, place: str) -> int:
    """Return the index behind the complete JSON object that begins at `start`, or -1."""
    if not line.startswith("{", start):
        return -1
    if line.endswith("}") and _is_json(line[start:], place):
        return len(line)  # what nearly every line turns out to be, found at the parser's speed
    end, _ = _match(line, start, place, None)
    return end if end >= 0 and _is_json(line[start:end], place) else -1


def headers_comma(line: str, place: str) -> int:
    """Return the leftmost comma behind which one object fills the rest of the line, or -1."""
    if not line.endswith("}"):
        return -1
    first = _CANDIDATE.search(line)
    if first is None or _is_json(line[first.end() :], place):
        return first.start() if first else -1
    seen = bytearray(len(line))
    found = []
    for candidate in _CANDIDATE.finditer(line):
        start = candidate.end()
        if seen[start]:
            continue
        _, opener = _match(line, start, place, seen)
        if opener >= 0 and _CANDIDATE.match(line, opener - 1) and _is_json(line[opener:], place):
            found.append(opener - 1)
    return min(found, default=-1)


def _match(line: str, start: int, place: str, seen: bytearray | None) -> tuple[int, int]:
    """Match the brackets from the `{` at `start` on.

    Returns the end of the object that begins there, or -1, and the opening bracket that the
    line's last character closes, or -1. Every `{` met outside of strings is marked in `seen`.
    """
    opened: list[int] = []
    for token in _TOKEN.finditer(line, start):
        sign, at = token.group(), token.start()
        if sign[0] == '"':
            if not token.group(1):
                return -1, -1
        elif sign in "{[":
            opened.append(at)
            if len(opened) > _DEPTH:
                raise BadOutput(f"{place}: brackets are nested more than {_DEPTH} levels deep")
            if seen is not None:
                seen[at] = 1
        elif sign == "\\" or line[opened[-1]] != _PARTNER[sign]:
            return -1, -1
        else:
            opener = opened.pop()
            end = at + 1
            if not opened or end == len(line):
                return (-1 if opened else end), (opener if end == len(line) else -1)
    return -1, -1


def _is_json(text: str, place: str) -> bool:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except msgspec.MsgspecError:
        return False
    except RecursionError:
        raise BadOutput(f"{place}: the JSON is nested too deeply") from None
    return True
