"""What a program is given: its arguments, and the files of a batch."""

import base64
import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from scalebox_actors.contract.headers import compact
from scalebox_actors.contract.objects import object_end
from scalebox_actors.errors import BadMessage, BadOutput
from scalebox_actors.limits import ARGUMENT_BYTES

_PLACEHOLDER = re.compile(r"\{(body|headers|id|work)\}")
_DEFAULT = ("{body}", "{headers}")
_INSTEAD = "use args: without {body} and read $WORK_DIR/body"
_encode = msgspec.json.Encoder().encode

Member = tuple[str, bytes, Mapping[str, str]]
"""A task of a batch: its id, body and headers."""


def arguments(
    args: Sequence[str] | None, *, body: bytes, headers: Mapping[str, str], task_id: str, work: str
) -> list[str]:
    """Return what follows the command: body and headers, or `args` with their placeholders filled.

    Raises BadMessage if the body is used and no program could be given it as an argument.
    """
    templates = _DEFAULT if args is None else args
    values = {"headers": _encode(dict(headers)).decode(), "id": task_id, "work": work}
    if any("{body}" in template for template in templates):
        values["body"] = _argument_text(body)
    # One pass: a body that says `{headers}` stays what it is.
    filled = [_PLACEHOLDER.sub(lambda m: values[m.group(1)], template) for template in templates]
    for argument in filled:
        size = len(argument.encode(errors="surrogateescape"))
        if size > ARGUMENT_BYTES:
            raise BadMessage(
                f"an argument would have {size} bytes, at most {ARGUMENT_BYTES} fit; {_INSTEAD}"
            )
    return filled


def render_batch_txt(tasks: Iterable[Member]) -> bytes:
    r"""Write `batch-tasks.txt`: `task_id,body,headers` a line, commas of text bodies as `\,`.

    A line cannot hold every body: a JSON object of several lines is written on one; line ends of
    other bodies are written as `\n` and `\r`, bytes that are no UTF-8
    as U+FFFD. `batch-tasks.jsonl` beside it holds every body exactly.
    """
    return b"".join(_batch_line(*task) for task in tasks)


def render_batch_jsonl(tasks: Iterable[Member]) -> bytes:
    """Write `batch-tasks.jsonl`: an object with `task_id`, `body`, `headers` a line.

    A body that is not UTF-8 comes as `body_base64` instead of `body`.
    """
    return b"".join(_batch_json(*task) + b"\n" for task in tasks)


def _argument_text(body: bytes) -> str:
    if b"\0" in body:
        raise BadMessage(f"the body holds a NUL and cannot be an argument; {_INSTEAD}")
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise BadMessage(f"the body is not UTF-8 and cannot be an argument; {_INSTEAD}") from None


def _batch_line(task_id: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    text = body.decode(errors="replace")
    if not _is_object(text):
        text = text.replace(",", "\\,").replace("\n", "\\n").replace("\r", "\\r")
    elif "\n" in text or "\r" in text:
        text = compact(text)
    fields = (task_id.replace(",", "\\,"), text, _encode(dict(headers)).decode())
    return ",".join(fields).encode() + b"\n"


def _is_object(text: str) -> bool:
    try:
        return object_end(text, 0, "") == len(text)
    except BadOutput:  # too deep to tell
        return False


def _batch_json(task_id: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    try:
        payload = {"body": body.decode()}
    except UnicodeDecodeError:
        payload = {"body_base64": base64.b64encode(body).decode()}
    return _encode({"task_id": task_id, **payload, "headers": dict(headers)})
