"""A version with totalDelta on a real API server. The test plays the gates of earlier versions and the kubelet."""

from typing import Any

import pytest

from control_plane.harness import Cluster, StartOperator, eventually
from control_plane.serving import FAMILY, digest, judged, service, settled
from control_plane.test_finetunejob import CLAIM, end
from driftloop.contract.result import AnchorResult, AnyResult, encode
from driftloop.controller.vocabulary.labels import ARM, IN_USE
from unit.controller.stages import answered, evaluated

pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(600)]

OLD = {"name": "new", "kind": "retention", "uri": "pvc://models/old.jsonl", "totalDelta": 0.1}


def finish(cluster: Cluster, arm: str, result: AnyResult) -> None:
    """Let the Job that asks this arm succeed."""
    (found,) = eventually(lambda: [j for j in cluster.list("jobs") if j["metadata"]["labels"].get(ARM) == arm])
    end(cluster, found, "evaluate", 0, encode(result))


def test_a_candidate_loses_against_the_anchor_of_the_stable_version(cluster: Cluster, operators: StartOperator) -> None:
    operators().start().ready()
    cluster.create(CLAIM | {"metadata": {"name": "models"}})
    judged(cluster, "v0")
    judged(cluster, "v1")
    plan: Any = {"anchor": {"version": "v0", "digest": digest("v0")}, "suites": []}
    cluster.patch_status("mver", "v1", {"plan": plan})
    cluster.create(service())
    eventually(lambda: settled(cluster, "v1", "stable"))
    eventually(lambda: cluster.get("mver", "v0")["metadata"].get("labels", {}).get(IN_USE) == "true")
    artefact = {"uri": "pvc://models/v2", "digest": digest("v2")}
    spec = {"family": FAMILY, "artefact": artefact, "evaluation": {"suites": [OLD]}}
    kind = {"apiVersion": "driftloop.dev/v1alpha1", "kind": "ModelVersion", "metadata": {"name": "v2"}}
    cluster.create(kind | {"spec": spec})
    finish(cluster, "baseline", answered(digest("v1")))
    finish(cluster, "anchor", answered(digest("v0")))
    found = evaluated(digest("v2"), digest("v1"), correct=900)
    lost = AnchorResult(correct=1000, gained=10, lost=110, error=0.008)
    suites = [found.suites[0].model_copy(update={"anchor": lost})]
    finish(cluster, "candidate", found.model_copy(update={"suites": suites, "anchor_digest": digest("v0")}))
    status = eventually(lambda: _judged(cluster))
    assert status["phase"] == "Rejected"
    assert status["gateSummary"].startswith("new: Fail: against the anchor (v0): 10 gained, 110 lost of 1000 items")
    assert status["plan"]["anchor"] == plan["anchor"]
    assert status["gates"][2]["anchor"]["left"] == "0.0000"


def _judged(cluster: Cluster) -> Any:
    status = cluster.get("mver", "v2").get("status") or {}
    return status if status.get("gates") else None
