"""When applying is skipped. What managedFields look like is checked by tests/control_plane against the API server."""

from typing import Any

import pytest

from driftloop.controller.runtime.kube.applied import hashed, is_applied, owns, stamped
from driftloop.controller.vocabulary.labels import APPLIED

BODY: Any = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web", "namespace": "ns", "labels": {"a": "b"}},
    "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80}], "list": ["x"]},
}
FIELDS: Any = {
    "f:metadata": {"f:labels": {"f:a": {}}, "f:annotations": {f"f:{APPLIED}": {}}},
    "f:spec": {
        "f:selector": {},  # owned whole
        "f:ports": {'k:{"port":80,"protocol":"TCP"}': {".": {}, "f:name": {}, "f:port": {}}},
        "f:list": {'v:"x"': {}},
    },
}


def live(fields: Any = FIELDS, body: Any = BODY, **entry: str) -> Any:
    found = hashed(body)
    managed = {"manager": "driftloop", "operation": "Apply", "fieldsV1": fields, **entry}
    return found | {"metadata": found["metadata"] | {"uid": "u", "managedFields": [managed]}}


def without(fields: Any, path: tuple[str, ...]) -> Any:
    """`fields` when one of them was lost: an empty set is not kept (a set that is empty from the start is a leaf)."""
    head, *rest = path
    kept = dict(fields)
    below = without(kept[head], tuple(rest)) if rest else {}
    if set(below) - {"."}:
        kept[head] = below
    else:
        del kept[head]
    return kept


def test_what_is_as_applied_is_skipped() -> None:
    assert is_applied(BODY, live())


def test_another_wish_is_applied() -> None:
    wanted = BODY | {"spec": BODY["spec"] | {"ports": [{"name": "http", "port": 81}]}}
    assert not is_applied(wanted, live())


@pytest.mark.parametrize(
    "path",
    [
        ("f:metadata", "f:labels", "f:a"),
        ("f:spec", "f:selector"),
        ("f:spec", "f:ports", 'k:{"port":80,"protocol":"TCP"}', "f:name"),
        ("f:spec", "f:ports", 'k:{"port":80,"protocol":"TCP"}'),
        ("f:spec", "f:list", 'v:"x"'),
    ],
)
def test_a_field_that_is_no_longer_ours_is_noticed(path: tuple[str, ...]) -> None:
    assert not owns(live(without(FIELDS, path)), hashed(BODY))


def test_only_our_own_apply_counts() -> None:
    assert not owns(live(operation="Update"), hashed(BODY))
    assert not owns(live(manager="kubectl"), hashed(BODY))
    assert not owns(live(subresource="status"), hashed(BODY))


def test_our_label_is_on_the_object_and_on_its_pods() -> None:
    job = {"kind": "Job", "metadata": {"name": "j"}, "spec": {"template": {"spec": {}}}}
    found = stamped(job)
    assert found["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "driftloop"}
    assert found["spec"]["template"]["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "driftloop"}
    assert "labels" not in job["metadata"]
