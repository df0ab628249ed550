"""InferenceServices with a real API server, the whole operator and a real Prometheus. The tests play the kubelet."""

import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from control_plane.harness import Cluster, OperatorProcess, StartOperator, eventually
from control_plane.objects import finetunejob
from control_plane.serving import deployment, judged, play_kubelet, role, service, settled
from control_plane.traffic import Traffic
from driftloop.contract.names import ALERT_NAME
from testcluster.console import Error

pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(600)]

RETRAINING: Any = {
    "approval": "automatic",
    "jobTemplate": {
        "spec": finetunejob("any")["spec"]
        | {"evaluation": {"suites": [{"name": "new", "kind": "target", "items": "data"}]}}
    },
}


@pytest.fixture(scope="module")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traffic]:
    found = Traffic(tmp_path_factory.mktemp("prometheus"))
    yield found
    found.stop()


def serving(cluster: Cluster, start: StartOperator, traffic: Traffic, **spec: Any) -> OperatorProcess:
    """An operator, and a service with v1 as stable version."""
    operator = start(traffic.flag).start().ready()
    judged(cluster, "v1")
    cluster.create(service(**spec))
    eventually(lambda: settled(cluster, "v1", "stable"))
    eventually(lambda: (cluster.condition("dlsvc", "desk", "Ready") or {}).get("status") == "True")
    return operator


def trying(cluster: Cluster, start: StartOperator, traffic: Traffic, **spec: Any) -> OperatorProcess:
    """The same, with v2 as candidate in its analysis."""
    operator = serving(cluster, start, traffic, **spec)
    judged(cluster, "v2", against="v1")

    def analysed() -> bool:
        play_kubelet(cluster)
        notes = (deployment(cluster, "v2") or {"metadata": {}})["metadata"].get("annotations") or {}
        return "driftloop.dev/analysis-started" in notes

    eventually(analysed)
    return operator


def alerts(namespace: str, *started: datetime) -> bytes:
    labels = {"alertname": ALERT_NAME, "inference_namespace": namespace, "inference_service": "desk"}
    found = [
        {"status": "firing", "labels": labels, "startsAt": moment.isoformat(), "fingerprint": f"{number:016x}"}
        for number, moment in enumerate(started)
    ]
    return json.dumps({"version": "4", "status": "firing", "alerts": found}).encode()


def test_a_good_version_takes_over_and_the_old_one_goes(
    cluster: Cluster, operators: StartOperator, traffic: Traffic
) -> None:
    trying(cluster, operators, traffic)
    old, new = deployment(cluster, "v1"), deployment(cluster, "v2")
    assert (old["spec"]["replicas"], new["spec"]["replicas"]) == (2, 1)
    assert cluster.get("service", "desk")["spec"]["selector"] == {
        "driftloop.dev/service": "desk",
        "driftloop.dev/stage": "serve",
    }
    traffic.serve(old, 60)
    traffic.serve(new, 30)
    eventually(lambda: settled(cluster, "v2", "stable"))
    eventually(lambda: settled(cluster, "v1", None))
    assert deployment(cluster, "v2")["spec"]["replicas"] == 2
    status = eventually(lambda: _phase(cluster, "Serving"))
    assert (status["stable"]["version"], status["traffic"]) == ("v2", "100/0")
    assert status["analysis"]["candidateRequests"] == 30
    reasons = {event["reason"] for event in cluster.list("events.events.k8s.io")}
    assert {"CandidateChosen", "AnalysisStarted", "CanaryPassed", "Promoted"} <= reasons


def _phase(cluster: Cluster, phase: str) -> Any:
    status = cluster.get("dlsvc", "desk").get("status") or {}
    return status if status.get("phase") == phase else None


def test_a_bad_version_is_rolled_back_and_not_tried_again_though_the_status_is_lost(
    cluster: Cluster, operators: StartOperator, traffic: Traffic
) -> None:
    trying(cluster, operators, traffic)
    traffic.serve(deployment(cluster, "v1"), 60)
    traffic.serve(deployment(cluster, "v2"), 30, errors=25)
    eventually(lambda: settled(cluster, "v2", "failed"))
    failed = deployment(cluster, "v2")
    assert failed["spec"]["replicas"] == 0
    assert "25 of 30 failed" in failed["metadata"]["annotations"]["driftloop.dev/failed"]
    eventually(lambda: settled(cluster, "v1", "stable") and _phase(cluster, "Serving"))
    wipe(cluster)
    status = eventually(lambda: _phase(cluster, "Serving"))
    assert status["failedRevisions"] == [failed["metadata"]["labels"]["driftloop.dev/revision"]]
    assert role(cluster, "v2") == "failed"


def wipe(cluster: Cluster) -> None:
    """Wipe the status of the service and of its versions, then write the verdicts again, like their controller."""
    for kind, name in (("dlsvc", "desk"), *(("mver", v["metadata"]["name"]) for v in cluster.list("mver"))):
        patch = json.dumps([{"op": "remove", "path": "/status"}])
        cluster.kubectl("patch", kind, name, "--subresource=status", "--type=json", "-p", patch)


def test_a_counter_that_is_no_number_pauses_the_rollout_and_says_so(
    cluster: Cluster, operators: StartOperator, traffic: Traffic
) -> None:
    trying(cluster, operators, traffic, canary={"minRequests": 20, "minSeconds": 1, "maxSeconds": 10})
    traffic.serve(deployment(cluster, "v1"), 60)
    traffic.serve(deployment(cluster, "v2"), 30, errors=math.nan)
    eventually(lambda: _phase(cluster, "Paused"))
    condition = cluster.condition("dlsvc", "desk", "Reconciling")
    assert "NaN" in condition["message"], condition
    assert condition["reason"] == "CanaryPaused"
    assert (role(cluster, "v1"), role(cluster, "v2")) == ("stable", "candidate")
    [event] = eventually(lambda: [e for e in cluster.list("events") if e["reason"] == "CanaryPaused"])
    assert "NaN" in event["message"]


def test_wiping_every_status_in_a_canary_moves_no_traffic(
    cluster: Cluster, operators: StartOperator, traffic: Traffic
) -> None:
    trying(cluster, operators, traffic)
    before = {d["metadata"]["name"]: d["metadata"]["generation"] for d in cluster.list("deployments")}
    roles = (role(cluster, "v1"), role(cluster, "v2"))
    wipe(cluster)
    status = eventually(lambda: _phase(cluster, "Canary"))
    assert (status["stable"]["version"], status["candidate"]["version"]) == ("v1", "v2")
    assert {d["metadata"]["name"]: d["metadata"]["generation"] for d in cluster.list("deployments")} == before
    assert (role(cluster, "v1"), role(cluster, "v2")) == roles


def test_alerts_of_two_alertmanagers_delivered_twice_make_one_job(
    cluster: Cluster, operators: StartOperator, traffic: Traffic
) -> None:
    operator = serving(cluster, operators, traffic, retraining=RETRAINING)
    now = datetime.now(UTC) + timedelta(
        seconds=1
    )  # an alert in the second of the promotion doesn't concern the new version
    bear_out(cluster, now)
    for _ in range(2):
        assert operator.post(alerts(cluster.namespace, now, now + timedelta(milliseconds=300)))[0] == 200
    [job] = eventually(lambda: cluster.list("ftj"))
    assert json.loads(job["metadata"]["annotations"]["driftloop.dev/trigger"])["kind"] == "Drift"
    assert operator.post(alerts(cluster.namespace, now))[0] == 200
    operator.stop(kill=True)
    wipe(cluster)
    again = operators(traffic.flag, identity="b").start().ready()
    again.post(alerts(cluster.namespace, now))
    status: Any = eventually(lambda: (_phase(cluster, "Serving") or {}).get("retraining"))
    assert (status["state"], status["job"]) == ("Running", job["metadata"]["name"])
    assert [each["metadata"]["name"] for each in cluster.list("ftj")] == [job["metadata"]["name"]]


def test_an_alert_that_the_operators_own_evidence_does_not_bear_out_starts_nothing(
    cluster: Cluster, operators: StartOperator, traffic: Traffic
) -> None:
    operator = serving(cluster, operators, traffic, retraining=RETRAINING)
    now = datetime.now(UTC) + timedelta(seconds=1)
    assert operator.post(alerts(cluster.namespace, now))[0] == 200
    eventually(lambda: (_phase(cluster, "Serving") or {}).get("alerts"))
    eventually(lambda: ((_phase(cluster, "Serving") or {}).get("retraining") or {}).get("state") == "Idle")
    assert cluster.list("ftj") == []
    bear_out(cluster, now)
    eventually(lambda: cluster.list("ftj"))


def bear_out(cluster: Cluster, moment: datetime) -> None:
    """Write the status that the operator writes when its evidence is above the threshold."""
    eventually(lambda: (_phase(cluster, "Serving") or {}).get("drift"))
    patch = json.dumps({"status": {"drift": {"lastAlarm": moment.strftime("%Y-%m-%dT%H:%M:%SZ")}}})
    cluster.kubectl("patch", "dlsvc", "desk", "--subresource=status", "--type=merge", "-p", patch)


def test_an_upgrade_of_the_operator_restarts_no_pod(
    cluster: Cluster, operators: StartOperator, traffic: Traffic
) -> None:
    operator = serving(cluster, operators, traffic)
    before = deployment(cluster, "v1")
    assert before is not None
    operator.stop()
    upgraded = operators(traffic.flag, "--server-image=server:next", identity="b").start().ready()
    eventually(lambda: upgraded.metric('driftloop_reconcile_total{kind="InferenceService"') > 0)
    eventually(lambda: upgraded.metric("driftloop_queue_depth") == 0)
    after = deployment(cluster, "v1")
    assert after["spec"] == before["spec"]
    assert after["metadata"]["generation"] == before["metadata"]["generation"]


def test_a_service_of_that_name_is_left_alone(cluster: Cluster, operators: StartOperator, traffic: Traffic) -> None:
    foreign = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "desk"},
        "spec": {"ports": [{"name": "x", "port": 1}]},
    }
    cluster.create(foreign)
    before = cluster.get("service", "desk")["metadata"]["resourceVersion"]
    operators(traffic.flag).start().ready()
    cluster.create(service())
    stalled = eventually(lambda: cluster.condition("dlsvc", "desk", "Stalled"))
    assert stalled["reason"] == "NameTaken"
    assert cluster.get("service", "desk")["metadata"]["resourceVersion"] == before


def test_a_disruption_budget_that_somebody_edited_does_not_keep_the_service_from_being_scaled(
    cluster: Cluster, operators: StartOperator, traffic: Traffic
) -> None:
    serving(cluster, operators, traffic)
    [budget] = cluster.list("poddisruptionbudgets")
    name = budget["metadata"]["name"]
    cluster.kubectl("patch", "pdb", name, "--type=merge", "-p", '{"spec": {"maxUnavailable": 2}}')
    refused = eventually(lambda: cluster.condition("dlsvc", "desk", "ChildrenRefused"))
    assert refused["reason"] == "FieldConflict"
    assert name in refused["message"]
    assert cluster.condition("dlsvc", "desk", "Stalled") is None
    cluster.kubectl("scale", "dlsvc", "desk", "--replicas=4")
    eventually(lambda: deployment(cluster, "v1")["spec"]["replicas"] == 4)
    assert cluster.list("poddisruptionbudgets")[0]["spec"]["maxUnavailable"] == 2
    cluster.kubectl("delete", "pdb", name)
    eventually(lambda: cluster.condition("dlsvc", "desk", "ChildrenRefused") is None)


@pytest.fixture
def no_jobs(cluster: Cluster) -> Iterator[None]:
    """An admission policy that refuses all FineTuneJobs in the namespace."""
    name = f"no-jobs-{cluster.namespace}"
    group = "admissionregistration.k8s.io/v1"
    rule = {
        "apiGroups": ["driftloop.dev"],
        "apiVersions": ["*"],
        "operations": ["CREATE"],
        "resources": ["finetunejobs"],
    }
    policy = {
        "apiVersion": group,
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"resourceRules": [rule]},
            "validations": [
                {"expression": f"request.namespace != '{cluster.namespace}'", "message": "no GPUs this week"}
            ],
        },
    }
    binding = {
        "apiVersion": group,
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    }
    cluster.create(policy)
    cluster.create(binding)
    try:
        eventually(lambda: "no GPUs this week" in _refusal(cluster))
        yield
    finally:
        for kind in ("validatingadmissionpolicybinding", "validatingadmissionpolicy"):
            cluster.kubectl("delete", kind, name)


def _refusal(cluster: Cluster) -> str:
    """The API server's answer to a dry run of creating a FineTuneJob."""
    try:
        cluster.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(finetunejob("asked")))
    except Error as error:
        return str(error)
    return ""


def test_a_retraining_that_a_policy_refuses_keeps_no_candidate_from_being_rolled_back(
    cluster: Cluster, operators: StartOperator, traffic: Traffic, no_jobs: None
) -> None:
    operator = trying(cluster, operators, traffic, retraining=RETRAINING)
    now = datetime.now(UTC) + timedelta(seconds=1)
    eventually(lambda: (cluster.get("dlsvc", "desk").get("status") or {}).get("drift"))
    patch = json.dumps({"status": {"drift": {"lastAlarm": now.strftime("%Y-%m-%dT%H:%M:%SZ")}}})
    cluster.kubectl("patch", "dlsvc", "desk", "--subresource=status", "--type=merge", "-p", patch)
    assert operator.post(alerts(cluster.namespace, now))[0] == 200
    refused = eventually(lambda: cluster.condition("dlsvc", "desk", "ChildrenRefused"))
    assert "no GPUs this week" in refused["message"]
    traffic.serve(deployment(cluster, "v1"), 60)
    traffic.serve(deployment(cluster, "v2"), 30, errors=25)
    eventually(lambda: settled(cluster, "v2", "failed"))
    eventually(lambda: settled(cluster, "v1", "stable"))
    status = eventually(lambda: _phase(cluster, "Serving"))
    assert (status["retraining"]["state"], status["retraining"]["ordinal"]) == ("Waiting", 0)
    assert "ChildrenRefused" in status["retraining"]["message"]
    assert status["failedRevisions"] == [deployment(cluster, "v2")["metadata"]["labels"]["driftloop.dev/revision"]]
    assert cluster.list("ftj") == []


def shadowing(cluster: Cluster, start: StartOperator, traffic: Traffic) -> OperatorProcess:
    """The same, with v2 in the shadow of v1."""
    canary = {"minRequests": 20, "minSeconds": 1, "maxErrorRateIncrease": 0.2, "shadow": {"requests": 20}}
    operator = serving(cluster, start, traffic, canary=canary)
    judged(cluster, "v2", against="v1")

    def shadowed() -> bool:
        play_kubelet(cluster)
        notes = (deployment(cluster, "v2") or {"metadata": {}})["metadata"].get("annotations") or {}
        return "driftloop.dev/shadow-started" in notes

    eventually(shadowed)
    eventually(lambda: cluster.get("dlsvc", "desk")["status"]["phase"] == "Shadow")
    return operator


def selected(cluster: Cluster, name: str) -> str | None:
    """The one revision that a Service selects; None if it selects all."""
    found = cluster.get("service", name)["spec"]["selector"].get("driftloop.dev/revision")
    return None if found is None else str(found)


def revision_name(cluster: Cluster, version: str) -> str:
    return str(deployment(cluster, version)["metadata"]["labels"]["driftloop.dev/revision"])


def test_a_candidate_goes_from_the_shadow_to_the_canary_and_serves(
    cluster: Cluster, operators: StartOperator, traffic: Traffic
) -> None:
    shadowing(cluster, operators, traffic)
    assert selected(cluster, "desk") == revision_name(cluster, "v1")
    eventually(lambda: any(s["metadata"]["name"] == "desk-shadow" for s in cluster.list("services")))
    assert selected(cluster, "desk-shadow") == revision_name(cluster, "v2")
    assert cluster.get("dlsvc", "desk")["status"]["traffic"] == "100/0"
    old, new = deployment(cluster, "v1"), deployment(cluster, "v2")
    for measure in ("failed", "slow", "length"):
        traffic.shadow(old, new, measure, "neither", 200)
    eventually(lambda: cluster.get("dlsvc", "desk")["status"]["phase"] == "Canary", 120)
    eventually(lambda: selected(cluster, "desk") is None)
    eventually(lambda: all(s["metadata"]["name"] != "desk-shadow" for s in cluster.list("services")))
    assert cluster.get("dlsvc", "desk")["status"]["shadow"]["progress"] == "20/20"
    traffic.serve(old, 100)
    traffic.serve(new, 100)
    eventually(lambda: settled(cluster, "v2", "stable"), 120)
    assert "driftloop.dev/hidden" not in deployment(cluster, "v2")["metadata"]["annotations"]


def test_a_candidate_that_fails_in_the_shadow_is_rolled_back_and_never_had_a_user(
    cluster: Cluster, operators: StartOperator, traffic: Traffic
) -> None:
    shadowing(cluster, operators, traffic)
    traffic.shadow(deployment(cluster, "v1"), deployment(cluster, "v2"), "failed", "candidate", 200)
    eventually(lambda: role(cluster, "v2") == "failed", 120)
    assert "ShadowWorse" in deployment(cluster, "v2")["metadata"]["annotations"]["driftloop.dev/failed"]
    eventually(lambda: settled(cluster, "v1", "stable") and selected(cluster, "desk") is None)
    assert deployment(cluster, "v1")["spec"]["replicas"] == 2
