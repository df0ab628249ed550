"""The operator's log. Each line of a reconcile names the object."""

from contextlib import AbstractContextManager

from driftloop.contract import logs
from driftloop.controller.vocabulary.plan import Key


def working_on(key: Key) -> AbstractContextManager[None]:
    """Add `key` to every line that is logged inside the block."""
    return logs.naming(**key._asdict())


def configure(level: str) -> None:
    """Log lines of `level` and above. Of kopf, aiohttp and asyncio only warnings and errors are logged."""
    logs.configure(level, quiet=("kopf", "aiohttp.access", "asyncio"))
