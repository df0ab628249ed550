"""The patch between the current and the desired status. Pure."""

from typing import Any

from pydantic import BaseModel

from driftloop.controller.vocabulary.plan import Obj

FOREIGN = ("alerts",)  # written by the webhook's field manager, in InferenceServices


def wanted_status(status: Obj, model: type[BaseModel]) -> Obj:
    """`status` as the API server will store it: with defaults, without unknown fields and without foreign fields.

    Otherwise it would always differ from a status that the server has completed. Raises pydantic.ValidationError.
    """
    full = model.model_validate(status).model_dump(mode="json", by_alias=True, exclude_none=True)
    return without_foreign(full)


def without_foreign(status: Obj) -> Obj:
    """The part of a status that the operator writes."""
    return {key: value for key, value in status.items() if key not in FOREIGN}


def merge_patch(old: Any, new: Any) -> Any:
    """The JSON merge patch (RFC 7386) from `old` to `new`; None if they are equal.

    Lists are replaced as a whole. `new` must not contain null, which a merge patch can't set.
    """
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return None if old == new else new
    removed = dict.fromkeys(old.keys() - new.keys())
    changed = {key: merge_patch(old[key], new[key]) for key in old.keys() & new.keys() if old[key] != new[key]}
    added = {key: new[key] for key in new.keys() - old.keys()}
    return removed | changed | added or None
