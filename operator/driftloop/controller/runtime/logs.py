"""Logs as one JSON object a line, with the object that was worked on."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

from driftloop.controller.vocabulary.plan import Key

_key: ContextVar[Key | None] = ContextVar("key", default=None)


@contextmanager
def working_on(key: Key) -> Iterator[None]:
    """Every line logged inside names `key`."""
    token = _key.set(key)
    try:
        yield
    finally:
        _key.reset(token)


class JsonFormatter(logging.Formatter):
    """time, level, logger, message; kind, namespace and name of the object; error."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, str] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (key := _key.get()) is not None:
            line |= key._asdict()
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure(level: str) -> None:
    """Log to standard error. kopf's own chatter starts at warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("kopf", "aiohttp.access", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
