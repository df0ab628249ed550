"""The bar of a service: what no API server checks is checked by the model."""

from typing import Any

import pytest
from pydantic import ValidationError

from driftloop.api.acceptance import Acceptance


@pytest.mark.parametrize(
    ("suites", "message"),
    [
        ([{"kind": "floor", "maxDelta": 0.1}], "maxDelta is for kind retention"),
        ([{"kind": "retention", "minGain": 0.1}], "minGain is for kind target"),
        ([{"kind": "target", "minimum": 0.1}], "minimum is for kind floor"),
        ([{"kind": "floor", "onlyBesideStable": True}], "remove onlyBesideStable"),
        ([{"kind": "floor", "name": "a"}, {"kind": "target", "name": "a"}], "must be unique"),
        ([{"kind": "floor"}, {"kind": "floor", "minItems": 5}], "at most one entry of each kind"),
    ],
)
def test_what_contradicts_itself_is_refused_by_name(suites: list[Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Acceptance.model_validate({"suites": suites})


def test_a_kind_may_be_required_without_a_name_and_by_several_names() -> None:
    suites = [{"kind": "floor"}, {"kind": "floor", "name": "a"}, {"kind": "floor", "name": "b"}, {"kind": "target"}]
    assert len(Acceptance.model_validate({"suites": suites}).suites) == 4
