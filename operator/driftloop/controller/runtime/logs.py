"""The operator's log: each line names the object that was worked on."""

from contextlib import AbstractContextManager

from driftloop.contract import logs
from driftloop.controller.vocabulary.plan import Key


def working_on(key: Key) -> AbstractContextManager[None]:
    """Every line logged inside names `key`."""
    return logs.naming(**key._asdict())


def configure(level: str) -> None:
    """Log from `level` on. kopf's own chatter starts at warnings."""
    logs.configure(level, quiet=("kopf", "aiohttp.access", "asyncio"))
