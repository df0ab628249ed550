"""Conditions as kstatus expects them. Pure.

`Ready` is always present. `Reconciling` (work is in progress), `Stalled` (a person must act) and `ChildrenRefused` (the
rest works, but a secondary object can't be written) are present only while they are True. `Complete` and `Failed` mark
the end of a job, for `kubectl wait`. docs/conditions.md lists every reason.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Literal

from driftloop.api.base import Condition
from driftloop.controller.vocabulary.plan import Event, Obj

CHILDREN_REFUSED = "ChildrenRefused"
MAX_MESSAGE = 2048
MAX_EVENT = 1024  # limit of a note in events.k8s.io


def condition(
    type_: str, status: Literal["True", "False", "Unknown"], reason: str, message: str, limit: int = MAX_MESSAGE
) -> Condition:
    """A condition, with its message cut to the API's limit."""
    return Condition(type=type_, status=status, reason=reason, message=shorten(message, limit))


def progressing(reason: str, message: str) -> list[Condition]:
    """Conditions while work is in progress, or waits for something that may happen without a person."""
    return [condition("Ready", "False", reason, message), condition("Reconciling", "True", reason, message)]


def stalled(reason: str, message: str) -> list[Condition]:
    """Conditions if nothing continues until a person acts."""
    return [condition("Ready", "False", reason, message), condition("Stalled", "True", reason, message)]


def ready(reason: str, message: str) -> list[Condition]:
    """Conditions if the object is in its desired state."""
    return [condition("Ready", "True", reason, message)]


def failed(reason: str, message: str) -> list[Condition]:
    """Conditions of a job that failed. This is final, as its spec can't be changed."""
    return [*stalled(reason, message), condition("Failed", "True", reason, message)]


def complete(reason: str, message: str) -> list[Condition]:
    """Conditions of a job that succeeded."""
    return [*ready(reason, message), condition("Complete", "True", reason, message)]


def merge(old: list[Obj], new: Iterable[Condition], generation: int | None, now: datetime) -> list[Obj]:
    """The conditions to write: exactly `new`. lastTransitionTime is kept if `status` has not changed."""
    previous = {entry["type"]: entry for entry in old}
    return [_dated(entry, previous.get(entry.type), generation, now) for entry in new]


def transition(old: list[Obj], new: Iterable[Condition]) -> tuple[Event, ...]:
    """The Event for a new reason of `Ready`: a Warning if a person must act."""
    entries = {entry.type: entry for entry in new}
    head = entries.get("Ready")
    if head is None or (find(old, "Ready") or {}).get("reason") == head.reason:
        return ()
    return (Event("Warning" if "Stalled" in entries else "Normal", head.reason, shorten(head.message, MAX_EVENT)),)


def find(conditions: list[Obj], type_: str) -> Obj | None:
    """The condition with this type, or None."""
    return next((entry for entry in conditions if entry.get("type") == type_), None)


def is_true(conditions: list[Obj], type_: str) -> bool:
    """Whether the condition is present and True. Unknown does not count as True."""
    return (find(conditions, type_) or {}).get("status") == "True"


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with whole seconds, as the API server writes it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_timestamp(text: str) -> datetime:
    """The inverse of `timestamp`. Also accepts fractions of a second. Raises ValueError."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def shorten(message: str, limit: int = MAX_MESSAGE) -> str:
    """`message` in at most `limit` characters. An ellipsis marks a cut.

    >>> shorten("waiting for quota", 8)
    'waiting…'
    """
    return message if len(message) <= limit else message[: limit - 1] + "…"


def _dated(entry: Condition, previous: Obj | None, generation: int | None, now: datetime) -> Obj:
    same = previous is not None and previous.get("status") == entry.status and previous.get("lastTransitionTime")
    when = previous["lastTransitionTime"] if previous is not None and same else timestamp(now)
    return entry.model_copy(update={"observed_generation": generation, "last_transition_time": when}).dump()
