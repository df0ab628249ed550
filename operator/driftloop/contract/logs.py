"""The form of every log: one JSON object per line, on standard error. docs/testing.md says how to read them."""

import json
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType

_NOTHING: Mapping[str, str] = MappingProxyType({})
_context: ContextVar[Mapping[str, str]] = ContextVar("context", default=_NOTHING)


@contextmanager
def naming(**fields: str) -> Iterator[None]:
    """Every line logged inside has these fields too."""
    token = _context.set(fields)
    try:
        yield
    finally:
        _context.reset(token)


class JsonFormatter(logging.Formatter):
    """time, level, logger, message; the fields of `naming`; error, with its trace."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, str] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= _context.get()
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure(level: str = "info", quiet: Iterable[str] = ()) -> None:
    """Log to standard error; the loggers named in `quiet` from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in quiet:
        logging.getLogger(name).setLevel(logging.WARNING)


def message_of(line: str) -> str:
    """The last line of the message in a line of a log, or the line itself where it isn't one of ours.

    >>> message_of('{"level": "info", "message": "step 3/9 loss 0.5000"}')
    'step 3/9 loss 0.5000'
    >>> message_of("Killed")
    'Killed'
    """
    try:
        found = json.loads(line)
    except ValueError:
        # A kubelet hands on the last 2,048 bytes of a log: a longer line lacks its beginning.
        return line.removesuffix('"}').rsplit("\\n", 1)[-1] if line.endswith('"}') else line
    message = found.get("message") if isinstance(found, dict) else None
    return message.strip().rsplit("\n", 1)[-1] if isinstance(message, str) else line
