"""How kopf is set up: for watches alone."""

from typing import Any

import kopf

from driftloop.controller.runtime.loop.watch import kopf_settings


def test_kopf_copies_no_object_for_diffs_that_no_handler_wants() -> None:
    storage = kopf_settings().persistence.diffbase_storage
    raw: Any = {"metadata": {"labels": {"a": "b"}}, "spec": {"replicas": 1}}
    assert storage.build(body=kopf.Body(raw)) == {}
    assert storage.fetch(body=kopf.Body(raw)) is None
