"""Commands of people about a rollout, with a real API server and the whole operator. There is no Prometheus."""

from typing import Any

import pytest

from control_plane.harness import Cluster, StartOperator, eventually
from control_plane.serving import deployment, judged, play_kubelet, service, settled

pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(300)]


def status(cluster: Cluster) -> Any:
    return cluster.get("dlsvc", "desk").get("status") or {}


def command(cluster: Cluster, value: str) -> Any:
    """Set the annotation, and wait until the status has what became of it."""
    cluster.kubectl("annotate", "dlsvc", "desk", "--overwrite", f"driftloop.dev/rollout={value}")

    def noticed() -> Any:
        play_kubelet(cluster)
        found = status(cluster).get("command") or {}
        return found if found.get("value") == value else None

    return eventually(noticed)


def trying(cluster: Cluster, start: StartOperator, **spec: Any) -> str:
    """A service with v1 as stable version and v2 as candidate, whose analysis has begun. Returns v2's revision."""
    start().start().ready()
    judged(cluster, "v1")
    cluster.create(service(**spec))
    eventually(lambda: settled(cluster, "v1", "stable"))
    judged(cluster, "v2", against="v1")

    def analysed() -> Any:
        play_kubelet(cluster)
        metadata = (deployment(cluster, "v2") or {}).get("metadata") or {}
        begun = "driftloop.dev/analysis-started" in (metadata.get("annotations") or {})
        return metadata["labels"]["driftloop.dev/revision"] if begun else None

    return str(eventually(analysed))


def phase(cluster: Cluster, wanted: str) -> bool:
    play_kubelet(cluster)
    return bool(status(cluster).get("phase") == wanted)


def reasons(cluster: Cluster) -> set[str]:
    return {event["reason"] for event in cluster.list("events.events.k8s.io")}


def test_a_person_pauses_resumes_and_promotes(cluster: Cluster, operators: StartOperator) -> None:
    revision = trying(cluster, operators, promotion="manual")
    paused = command(cluster, f"pause {revision} by Ada")
    assert (paused["action"], paused["by"], paused["obeyed"]) == ("pause", "Ada", True)
    assert paused["time"]
    eventually(lambda: phase(cluster, "Paused"))
    condition = eventually(lambda: cluster.condition("dlsvc", "desk", "Ready"))
    assert condition["reason"] == "RolloutPaused"
    replicas = {d["metadata"]["name"]: d["spec"]["replicas"] for d in cluster.list("deployments")}
    removed = '[{"op": "remove", "path": "/status"}]'
    cluster.kubectl("patch", "dlsvc", "desk", "--subresource=status", "--type=json", "-p", removed)
    eventually(lambda: (status(cluster).get("command") or {}).get("value") == f"pause {revision} by Ada")
    assert {d["metadata"]["name"]: d["spec"]["replicas"] for d in cluster.list("deployments")} == replicas
    command(cluster, f"resume {revision} by Bob")
    eventually(lambda: phase(cluster, "Canary"))
    assert command(cluster, f"promote {revision} by Ada")["obeyed"]
    eventually(lambda: settled(cluster, "v2", "stable"))
    eventually(lambda: settled(cluster, "v1", None))
    assert status(cluster)["command"]["by"] == "Ada"
    eventually(lambda: {"RolloutPaused", "RolloutResumed", "RolloutPromoted"} <= reasons(cluster))
    notes = cluster.get("dlsvc", "desk")["metadata"]["annotations"]
    assert notes["driftloop.dev/rollout"] == f"promote {revision} by Ada"  # it is the user's


def test_a_person_aborts_and_what_is_not_about_the_candidate_does_nothing(
    cluster: Cluster, operators: StartOperator
) -> None:
    revision = trying(cluster, operators)
    other = command(cluster, "abort 0123456789 by Ada")
    assert not other["obeyed"]
    assert f"the candidate is revision {revision}" in other["message"]
    assert not command(cluster, "stop everything")["obeyed"]
    eventually(lambda: "CommandIgnored" in reasons(cluster))
    assert settled(cluster, "v2", "candidate")
    assert command(cluster, f"abort {revision} by Ada")["obeyed"]
    eventually(lambda: settled(cluster, "v2", "failed"))
    assert deployment(cluster, "v2")["spec"]["replicas"] == 0
    eventually(lambda: status(cluster).get("failedRevisions") == [revision])
    cluster.kubectl("annotate", "dlsvc", "desk", f"driftloop.dev/retry={revision}")
    eventually(lambda: settled(cluster, "v2", "candidate"))
