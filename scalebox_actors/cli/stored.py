"""What lies in the stream for people: results and dead letters, as fields. Pure."""

from collections.abc import Mapping

from scalebox_actors.cli.show import body_fields
from scalebox_actors.effects import DETAIL, LOG_TAIL, read_log_tail
from scalebox_actors.message import FROM_HOST, MSG_ID, PARENT, REASON, ROOT
from scalebox_actors.ports import Stored

_RESULT_MODULE, _LETTER_MODULE = 4, 4


def result_fields(stored: Stored) -> dict[str, object]:
    """Return a result: who emitted it for which message, and its body."""
    return {
        "module": stored.subject.split(".")[_RESULT_MODULE],
        "id": stored.headers.get(MSG_ID, ""),
        "parent": stored.headers.get(PARENT, ""),
        "root": stored.headers.get(ROOT, ""),
        "node": stored.headers.get(FROM_HOST, ""),
        "time": stored.time,
        **body_fields(stored.body),
    }


def letter_fields(stored: Stored) -> dict[str, object]:
    """Return a dead letter: which task, why it was buried, and what it last printed."""
    tokens = stored.subject.split(".")
    return {
        "module": tokens[_LETTER_MODULE],
        "id": ".".join(tokens[_LETTER_MODULE + 1 :]),
        "reason": stored.headers.get(REASON, ""),
        "detail": stored.headers.get(DETAIL, ""),
        "time": stored.time,
        "root": stored.headers.get(ROOT, ""),
        "parent": stored.headers.get(PARENT, ""),
        "log": read_log_tail(stored.headers.get(LOG_TAIL, "")),
        "headers": kept_headers(stored.headers),
        **body_fields(stored.body),
    }


def kept_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that the buried message itself had."""
    added = (REASON, DETAIL, LOG_TAIL)
    return {name: value for name, value in headers.items() if name not in added}
