"""Commands of people about a rollout: the annotation `driftloop.dev/rollout` of an InferenceService. Pure.

The annotation belongs to the user, and the operator does not remove it. So a command is obeyed once per value. The
status remembers the last value. A command that was obeyed is also recorded on the revision's Deployment, because a lost
status must not move traffic. A time in the value has no other meaning than to make it a new one.
"""

import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

from driftloop.controller.vocabulary.conditions import parse_timestamp, shorten, timestamp

Action = Literal["pause", "resume", "promote", "abort"]
MAX_VALUE = 512
_ACTIONS: tuple[Action, ...] = get_args(Action)
_FORM = re.compile(
    r"(?P<action>[a-z]+) (?P<revision>[a-z0-9]{1,63})(?: at \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)?"
    r"(?: by (?P<by>[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]{0,127}))?"
)
USAGE = f"{'|'.join(_ACTIONS)} REVISION [at TIME] [by WHO]"


@dataclass(frozen=True)
class Command:
    """A command about one revision."""

    action: Action
    revision: str
    by: str | None = None  # whoever the annotation names; nobody has checked it


@dataclass(frozen=True)
class Record:
    """A command that was obeyed, as recorded on the Deployment of its revision."""

    value: str  # of the annotation
    time: datetime  # when it was obeyed, by the operator's clock
    command: Command


def parse(value: str) -> Command | None:
    """The command in an annotation; None if it has another form.

    >>> parse("pause 0123456789 by Ada Lovelace")
    Command(action='pause', revision='0123456789', by='Ada Lovelace')
    >>> parse("pause 0123456789 at 2026-01-02T03:04:05Z by Ada")
    Command(action='pause', revision='0123456789', by='Ada')
    >>> parse("pause")
    """
    parts = _FORM.fullmatch(value.strip()) if len(value) <= MAX_VALUE else None
    action = next((known for known in _ACTIONS if parts and parts["action"] == known), None)
    return Command(action, parts["revision"], parts["by"]) if parts and action else None


def remembered(value: str) -> str:
    """The value of the annotation as the status holds it."""
    return shorten(value, MAX_VALUE)


def recorded(value: str, now: datetime) -> str:
    """The annotation of the Deployment for a command that is obeyed now."""
    return json.dumps({"value": value, "time": timestamp(now)}, ensure_ascii=False)


def parse_record(document: str | None) -> Record | None:
    """The inverse of `recorded`; None if there is no record, or an unreadable one."""
    try:
        content = json.loads(document or "null")
        value, time = content["value"], parse_timestamp(content["time"])
    except (ValueError, TypeError, KeyError):
        return None
    command = parse(value) if isinstance(value, str) else None
    return Record(value, time, command) if command else None
