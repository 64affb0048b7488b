"""How what a program writes as headers becomes a flat map of strings."""

import re
from collections.abc import Mapping

import msgspec

from scalebox_actors.errors import BadMessage, BadOutput
from scalebox_actors.message import check_user_headers

SYSTEM_HEADERS = frozenset(
    {
        *("from_module", "from_host", "from_ip", "from_cluster"),
        *("from_module_last", "from_host_last", "from_ip_last"),
        *("from_job", "from_job_last", "slot_last_task"),
    }
)
"""Set by the actor on every emission, so that a program cannot pretend to be another."""
SYSTEM_PREFIX = "_vtask_"

_BLANK = re.compile(r'("(?:[^"\\]++|\\.)*+")|[ \t\r\n]+', re.DOTALL)


def header_values(raw: Mapping[str, object]) -> dict[str, str]:
    """Return headers as strings: numbers and booleans as JSON text, lists and maps as compact JSON.

    Null drops the key. A `msgspec.Raw` value keeps the digits of its number: `1.50` stays `1.50`.
    """
    texts = ((name, json_text(value)) for name, value in raw.items())
    return {name: text for name, text in texts if text is not None}


def json_text(value: object) -> str | None:
    """Return a JSON value as the text of a header or a body; None for null."""
    if isinstance(value, str):
        return value
    raw = bytes(value) if isinstance(value, msgspec.Raw) else msgspec.json.encode(value)
    if raw.startswith(b'"'):
        return msgspec.json.decode(raw, type=str)
    text = compact(raw.decode())
    return None if text == "null" else text


def compact(text: str) -> str:
    """Drop the blanks between the tokens of a JSON text and change nothing else."""
    return _BLANK.sub(r"\1", text)


def is_system_header(name: str) -> bool:
    """Whether only the actor may set a header, so that what a program says of it is dropped."""
    return name in SYSTEM_HEADERS or name.startswith(SYSTEM_PREFIX)


def emitted_headers(raw: Mapping[str, object], place: str) -> dict[str, str]:
    """Return the headers of one emission without those that only the actor may set.

    Raises BadOutput, naming `place`, if they are over the limits.
    """
    headers = {
        name: value for name, value in header_values(raw).items() if not is_system_header(name)
    }
    try:
        check_user_headers(headers)
    except BadMessage as error:
        raise BadOutput(f"{place}: {error}") from None
    return headers
