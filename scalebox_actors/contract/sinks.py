"""The grammar of the task files: `sink-tasks.txt` with its seven forms, and `sink-tasks.jsonl`."""

import base64
import binascii
import re
from collections.abc import Collection

import msgspec

from scalebox_actors.contract.headers import compact, emitted_headers
from scalebox_actors.contract.objects import headers_comma, object_end
from scalebox_actors.contract.texts import one_line, strict_lines
from scalebox_actors.contract.values import Emission
from scalebox_actors.errors import BadOutput
from scalebox_actors.limits import OUTPUTS_PER_TASK

_COMMA = re.compile(r"(?<!\\),")
_RawMap = dict[str, msgspec.Raw]
_headers_decoder = msgspec.json.Decoder(_RawMap)


class SinkItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message as an object of JSON: exactly one of `body` and `body_base64` is given."""

    body: msgspec.Raw = msgspec.Raw()
    body_base64: str | None = None
    module: str | None = None
    headers: _RawMap | None = None


_line_decoder = msgspec.json.Decoder(SinkItem)


def parse_sink_tasks(data: bytes, modules: Collection[str], source: str) -> list[Emission]:
    """Read the lines of a `sink-tasks.txt`; raises BadOutput that names file and line."""
    emissions: list[Emission] = []
    for line in strict_lines(data, source):
        place = f"{source}:{line.number}"
        check_count(len(emissions) + 1, place)
        emissions.append(_emission(line.text, modules, place))
    return emissions


def parse_sink_jsonl(data: bytes, modules: Collection[str], source: str) -> list[Emission]:
    """Read the lines of a `sink-tasks.jsonl`; raises BadOutput that names file and line."""
    emissions: list[Emission] = []
    for line in strict_lines(data, source):
        place = f"{source}:{line.number}"
        check_count(len(emissions) + 1, place)
        emissions.append(_json_emission(line.text, modules, place))
    return emissions


def check_count(count: int, place: str) -> None:
    """Raise BadOutput if a run asks for more messages than fit its commit."""
    if count > OUTPUTS_PER_TASK:
        raise BadOutput(f"{place}: more than {OUTPUTS_PER_TASK} tasks from one run")


def known_module(name: str, modules: Collection[str], place: str) -> str:
    """Return `name` if it is a module that may be sent to, else raise BadOutput."""
    if name not in modules:
        raise BadOutput(f"{place}: unknown module {name[:80]!r}")
    return name


def _emission(line: str, modules: Collection[str], place: str) -> Emission:
    """Resolve one line; the first rule that matches decides."""
    end = object_end(line, 0, place)
    if end >= 0:  # rule 1: an object is the body (forms 2, 4)
        return Emission(module=None, body=line[:end].encode(), headers=_rest(line, end, place))
    comma = _first_comma(line)
    end = object_end(line, comma + 1, place) if comma >= 0 else -1
    if end >= 0 and line.startswith(",", end) and object_end(line, end + 1, place) == len(line):
        # rule 2: two objects behind the first comma (form 7)
        module = known_module(line[:comma], modules, place)
        body = line[comma + 1 : end].encode()
        return Emission(module=module, body=body, headers=_rest(line, end, place))
    at = headers_comma(line, place)
    if at < 0:
        return _text_emission(line, modules, {})
    return _text_emission(line[:at], modules, _rest(line, at, place))  # rule 3


def _text_emission(text: str, modules: Collection[str], headers: dict[str, str]) -> Emission:
    r"""Rule 4: a known module before the first comma is the target; rule 5: `\,` is a comma."""
    comma = _first_comma(text)
    module = text[:comma] if comma >= 0 and text[:comma] in modules else None
    body = text if module is None else text[comma + 1 :]
    return Emission(module=module, body=body.replace("\\,", ",").encode(), headers=headers)


def _rest(line: str, end: int, place: str) -> dict[str, str]:
    """Return the headers in what follows a body: nothing, or a comma and one object."""
    if end == len(line):
        return {}
    if not line.startswith(",", end):
        raise BadOutput(f"{place}: after the JSON body stands neither the line's end nor a comma")
    if object_end(line, end + 1, place) != len(line):
        raise BadOutput(f"{place}: what follows the JSON body is not one JSON object of headers")
    return emitted_headers(_headers_decoder.decode(line[end + 1 :]), place)


def _first_comma(text: str) -> int:
    match = _COMMA.search(text)
    return match.start() if match else -1


def emission_of(item: SinkItem, modules: Collection[str], place: str) -> Emission:
    """Return the message that an object asks for; raises BadOutput that names its place."""
    module = None if item.module is None else known_module(item.module, modules, place)
    return Emission(
        module=module,
        body=_body(item, place),
        headers=emitted_headers(item.headers, place) if item.headers else {},
    )


def _json_emission(line: str, modules: Collection[str], place: str) -> Emission:
    try:
        item = _line_decoder.decode(line)
    except msgspec.MsgspecError as error:
        raise BadOutput(f"{place}: {one_line(error)}") from None
    except RecursionError:
        raise BadOutput(f"{place}: the JSON is nested too deeply") from None
    return emission_of(item, modules, place)


def _body(item: SinkItem, place: str) -> bytes:
    raw = bytes(item.body)
    if bool(raw) == (item.body_base64 is not None):
        raise BadOutput(f"{place}: needs one of `body` and `body_base64`")
    if item.body_base64 is not None:
        try:
            return base64.b64decode(item.body_base64, validate=True)
        except (binascii.Error, ValueError):
            raise BadOutput(f"{place}: `body_base64` is not base64") from None
    if raw.startswith(b'"'):
        return msgspec.json.decode(raw, type=str).encode()
    if raw.startswith(b"{"):
        return compact(raw.decode()).encode()
    raise BadOutput(f"{place}: `body` is neither a string nor an object")
