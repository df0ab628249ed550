"""The patch between two statuses."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from driftloop.api.inferenceservice import InferenceServiceStatus
from driftloop.controller.runtime.kube.status import merge_patch, wanted_status, without_foreign

LEAF = st.one_of(st.integers(), st.text(max_size=3), st.booleans(), st.lists(st.integers(), max_size=3))
TREE = st.recursive(
    st.dictionaries(st.sampled_from("abcd"), LEAF, max_size=4),
    lambda below: st.dictionaries(st.sampled_from("abcd"), st.one_of(LEAF, below), max_size=4),
    max_leaves=12,
)


def applied(target: Any, patch: Any) -> Any:
    """RFC 7386, as it is written there."""
    if not isinstance(patch, dict):
        return patch
    found = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = applied(found.get(key), value)
    return found


@given(TREE, TREE)
def test_the_patch_makes_the_new_of_the_old(old: Any, new: Any) -> None:
    patch = merge_patch(old, new)
    assert applied(old, patch if patch is not None else {}) == new
    assert (patch is None) == (old == new)


def test_what_the_api_server_would_fill_in_makes_no_difference() -> None:
    stored = wanted_status({"phase": "Serving", "drift": {"requests": 3}}, InferenceServiceStatus)
    assert (
        merge_patch(stored, wanted_status({"phase": "Serving", "drift": {"requests": 3}}, InferenceServiceStatus))
        is None
    )
    assert stored["drift"]["alarm"] is False


def test_what_the_schema_does_not_know_is_not_wanted() -> None:
    assert "unheardOf" not in wanted_status({"unheardOf": 1}, InferenceServiceStatus)


def test_alerts_are_not_ours_to_write() -> None:
    assert "alerts" not in wanted_status({"alerts": []}, InferenceServiceStatus)
    assert without_foreign({"alerts": [1], "phase": "Serving"}) == {"phase": "Serving"}


def test_a_status_that_is_none_is_refused_by_field() -> None:
    with pytest.raises(ValidationError, match="phase"):
        wanted_status({"phase": "Dancing"}, InferenceServiceStatus)
