"""Log format of all images: one JSON object per line, on standard error. docs/testing.md explains how to read it."""

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
    """Add these fields to every line that is logged inside the block."""
    token = _context.set(fields)
    try:
        yield
    finally:
        _context.reset(token)


class JsonFormatter(logging.Formatter):
    """Fields: time, level, logger, message, those of `naming`, and error with the traceback."""

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
    """Log to standard error. The loggers in `quiet` log only warnings and errors."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in quiet:
        logging.getLogger(name).setLevel(logging.WARNING)


def message_of(line: str) -> str:
    """The last line of the message in a log line. A line in another format is returned unchanged.

    >>> message_of('{"level": "info", "message": "step 3/9 loss 0.5000"}')
    'step 3/9 loss 0.5000'
    >>> message_of("Killed")
    'Killed'
    """
    try:
        document = json.loads(line)
    except ValueError:
        # The kubelet copies only the last 2,048 bytes of a log, so the start of a longer line is missing.
        return line.removesuffix('"}').rsplit("\\n", 1)[-1] if line.endswith('"}') else line
    message = document.get("message") if isinstance(document, dict) else None
    return message.strip().rsplit("\n", 1)[-1] if isinstance(message, str) else line
