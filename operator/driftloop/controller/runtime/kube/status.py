"""From the status that is and the status that is wanted to the patch between them. Pure."""

from typing import Any

from pydantic import BaseModel

from driftloop.controller.vocabulary.plan import Obj

FOREIGN = ("alerts",)  # written by the webhook's field manager, in InferenceServices


def wanted_status(status: Obj, model: type[BaseModel]) -> Obj:
    """`status` as the API server will have it: defaults filled in, unknown fields dropped, what is foreign left out.

    Without that a status that the server completes would differ for ever. Raises pydantic's ValidationError.
    """
    full = model.model_validate(status).model_dump(mode="json", by_alias=True, exclude_none=True)
    return without_foreign(full)


def without_foreign(status: Obj) -> Obj:
    """The part of a status that is ours."""
    return {key: value for key, value in status.items() if key not in FOREIGN}


def merge_patch(old: Any, new: Any) -> Any:
    """The JSON merge patch (RFC 7386) that makes `new` of `old`; None when there is no difference.

    Lists are replaced whole. `new` holds no nulls: a merge patch can't set one.
    """
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return None if old == new else new
    removed = dict.fromkeys(old.keys() - new.keys())
    changed = {key: merge_patch(old[key], new[key]) for key in old.keys() & new.keys() if old[key] != new[key]}
    added = {key: new[key] for key in new.keys() - old.keys()}
    return removed | changed | added or None
