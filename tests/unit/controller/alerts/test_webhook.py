"""Bodies that are no webhook."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.controller.alerts.webhook import BadRequest, parse_webhook

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda below: st.one_of(
        st.lists(below, max_size=3),
        st.dictionaries(
            st.sampled_from(["version", "alerts", "labels", "alertname", "startsAt", "x"]), below, max_size=4
        ),
    ),
    max_leaves=15,
)


@given(JSON)
def test_any_document_is_read_or_refused(document: Any) -> None:
    try:
        found = parse_webhook(json.dumps(document).encode())
    except BadRequest:
        return
    assert document["version"] == "4"
    assert len(found) == len(document["alerts"])


@given(st.binary(max_size=50))
def test_any_bytes_are_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_webhook(body)


def test_depth_is_no_way_in() -> None:
    with pytest.raises(BadRequest, match="not JSON"):
        parse_webhook(b"[" * 200_000)


def test_a_resolved_alert_has_fired() -> None:
    alert = {"status": "resolved", "labels": {"alertname": "A"}, "startsAt": "2026-01-01T00:00:00Z", "fingerprint": "f"}
    [found] = parse_webhook(json.dumps({"version": "4", "alerts": [alert]}).encode())
    assert found.key == "f/2026-01-01T00:00:00.000Z"
