"""How log records are written: one line each, as text for people or as JSON for machines."""

import logging
import sys
import time

from scalebox_actors.cli.show import escaped, json_line

_HARMLESS = "returning true from eof_received()"
"""What asyncio warns of whenever a connection of nats-py with TLS ends; nobody can do anything."""
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class Handler(logging.Handler):
    """Writes to whatever standard error is at that moment: a live table may have taken it over."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line; a log that cannot be written is no reason to stop work."""
        try:
            if sys.stderr is not None:
                sys.stderr.write(self.format(record) + "\n")
        except (OSError, ValueError):
            return


class TextFormatter(logging.Formatter):
    """`2026-11-22T21:53:50.123Z warning module_suspended module=count why="…"`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        told = [f"{name}={_quoted(value)}" for name, value in _fields(record).items()]
        return " ".join([_when(record), record.levelname.lower(), record.getMessage(), *told])


class JsonFormatter(logging.Formatter):
    """The same as one JSON object: `time`, `level`, `event`, `logger` and the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        event = {"time": _when(record), "level": record.levelname.lower()}
        named = event | {"event": record.getMessage(), "logger": record.name}
        return json_line(_fields(record) | named)


def start(*, json: bool, level: int) -> None:
    """Send everything that is logged to standard error."""
    handler = Handler()
    handler.setFormatter(JsonFormatter() if json else TextFormatter())
    handler.addFilter(lambda record: not str(record.msg).startswith(_HARMLESS))
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.raiseExceptions = False
    for chatty in ("asyncio", "nats", "aiodocker"):
        logging.getLogger(chatty).setLevel(max(level, logging.WARNING))


def _when(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03d}Z"


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """Return what came in `extra`, and the error if there is one."""
    given = {k: _plain(v) for k, v in record.__dict__.items() if k not in _STANDARD}
    if record.exc_info and record.exc_info[1] is not None:
        error = record.exc_info[1]
        given["error"] = f"{type(error).__name__}: {error}"
    return given


def _plain(value: object) -> object:
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _quoted(value: object) -> str:
    """Return a value that cannot be taken for two fields or two lines."""
    text = str(value)
    simple = text.isprintable() and not any(c in ' "=' for c in text) and text
    return text if simple else '"' + escaped(text).replace('"', '\\"') + '"'
