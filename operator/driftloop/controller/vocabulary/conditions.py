"""Conditions as kstatus reads them. Pure.

`Ready` is always there. Abnormal-true, and absent when false, are `Reconciling` (working on it), `Stalled` (needs a
human or a change) and `ChildrenRefused` (all goes on, but an object beside the main ones can't be written). `Complete`
and `Failed` end a job, for `kubectl wait`. docs/conditions.md lists every reason.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Literal

from driftloop.api.base import Condition
from driftloop.controller.vocabulary.plan import Event, Obj

CHILDREN_REFUSED = "ChildrenRefused"
MAX_MESSAGE = 2048
MAX_EVENT = 1024  # what events.k8s.io takes as a note


def condition(
    type_: str, status: Literal["True", "False", "Unknown"], reason: str, message: str, limit: int = MAX_MESSAGE
) -> Condition:
    """A condition whose message is cut to what the API takes."""
    return Condition(type=type_, status=status, reason=reason, message=shorten(message, limit))


def progressing(reason: str, message: str) -> list[Condition]:
    """Work is under way, or waits for something that may come by itself."""
    return [condition("Ready", "False", reason, message), condition("Reconciling", "True", reason, message)]


def stalled(reason: str, message: str) -> list[Condition]:
    """It goes no further until somebody acts."""
    return [condition("Ready", "False", reason, message), condition("Stalled", "True", reason, message)]


def ready(reason: str, message: str) -> list[Condition]:
    """It is as wanted."""
    return [condition("Ready", "True", reason, message)]


def failed(reason: str, message: str) -> list[Condition]:
    """It ended without success, for good: its spec can't be changed."""
    return [*stalled(reason, message), condition("Failed", "True", reason, message)]


def complete(reason: str, message: str) -> list[Condition]:
    """It ended well."""
    return [*ready(reason, message), condition("Complete", "True", reason, message)]


def merge(old: list[Obj], new: Iterable[Condition], generation: int | None, now: datetime) -> list[Obj]:
    """The conditions to write: exactly `new`, with lastTransitionTime kept where `status` stayed what it was."""
    before = {entry["type"]: entry for entry in old}
    return [_dated(entry, before.get(entry.type), generation, now) for entry in new]


def transition(old: list[Obj], new: Iterable[Condition]) -> tuple[Event, ...]:
    """The Event that a new reason of `Ready` is worth: a Warning where somebody has to act."""
    entries = {entry.type: entry for entry in new}
    head = entries.get("Ready")
    if head is None or (find(old, "Ready") or {}).get("reason") == head.reason:
        return ()
    return (Event("Warning" if "Stalled" in entries else "Normal", head.reason, shorten(head.message, MAX_EVENT)),)


def find(conditions: list[Obj], type_: str) -> Obj | None:
    """The condition of that type, as it was written."""
    return next((entry for entry in conditions if entry.get("type") == type_), None)


def is_true(conditions: list[Obj], type_: str) -> bool:
    """Whether the condition is there and True: unknown is not True."""
    return (find(conditions, type_) or {}).get("status") == "True"


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC, whole seconds, as the API server writes it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_timestamp(text: str) -> datetime:
    """The inverse of `timestamp`; accepts fractions of a second too. Raises ValueError."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def shorten(message: str, limit: int = MAX_MESSAGE) -> str:
    """`message` in at most `limit` characters, the cut marked.

    >>> shorten("waiting for quota", 8)
    'waiting…'
    """
    return message if len(message) <= limit else message[: limit - 1] + "…"


def _dated(entry: Condition, before: Obj | None, generation: int | None, now: datetime) -> Obj:
    same = before is not None and before.get("status") == entry.status and before.get("lastTransitionTime")
    when = before["lastTransitionTime"] if before is not None and same else timestamp(now)
    return entry.model_copy(update={"observed_generation": generation, "last_transition_time": when}).dump()
