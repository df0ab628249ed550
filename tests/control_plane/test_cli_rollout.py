"""Commands about a rollout as processes with the rights of deploy/pipeline/rollout.yaml, with the whole operator."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from control_plane.commands import ROLLOUT, Pipeline, ended, pipeline
from control_plane.harness import Cluster, StartOperator, eventually
from control_plane.objects import inferenceservice
from control_plane.serving import judged, play_kubelet, service, settled
from control_plane.test_cli import account_without
from control_plane.test_orders import status, trying

pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(300)]

WHO = "system:serviceaccount:{}:driftloop-rollout"


@pytest.fixture
def person(cluster: Cluster, tmp_path: Path) -> Pipeline:
    cluster.kubectl("apply", "-f", str(ROLLOUT))
    return Pipeline(cluster, tmp_path, "driftloop-rollout")


def test_a_rollout_is_paused_resumed_and_promoted(person: Pipeline, cluster: Cluster, operators: StartOperator) -> None:
    revision, user = trying(cluster, operators), WHO.format(cluster.namespace)
    assert person.run("pause", "desk")[:2] == (0, f"service desk: v2 is paused by {user}\n")
    ignored = person.run("resume", "desk", "--revision", "0123456789")
    assert (ignored.code, status(cluster)["command"]["action"]) == (1, "pause"), "nothing was written"
    assert f"the candidate is revision {revision} of v2, not revision 0123456789" in ignored.out
    found = person.run("resume", "desk", "--version", "v2", "--by", "Ada", "-o", "json")
    result = json.loads(found.out)
    assert (found.code, result["result"], result["message"]) == (0, "done", "v2 goes on, by Ada")
    assert result["objects"][0]["status"]["command"]["by"] == "Ada"
    again = person.run("resume", "desk", "--by", "Ada")
    assert (again.code, "ignored: resume: the rollout" in again.out) == (1, True), "the same words are a new command"
    assert person.run("promote", "desk", "--revision", revision).code == 0
    eventually(lambda: settled(cluster, "v2", "stable"))
    eventually(lambda: settled(cluster, "v1", None))
    nothing = person.run("promote", "desk")
    assert nothing[:2] == (
        1,
        "service desk: promote: there is no candidate, so there is nothing to decide: v2 serves\n",
    )


def test_a_candidate_is_rolled_back_and_a_step_may_be_repeated(
    person: Pipeline, cluster: Cluster, operators: StartOperator
) -> None:
    revision = trying(cluster, operators)
    assert person.run("rollback", "desk", "--version", "v1", "--to", "v7").code == 1, "v7 does not exist"
    code, out, _ = person.run("rollback", "desk", "--version", "v2")
    assert (code, "aborted by" in out) == (0, True)
    eventually(lambda: status(cluster).get("failedRevisions") == [revision])
    eventually(lambda: settled(cluster, "v2", "failed"))
    eventually(lambda: status(cluster).get("candidate") is None)
    again = person.run("rollback", "desk", "--version", "v2")
    assert again[:2] == (0, "service desk: v2 is not in service: v1 serves\n")


def test_a_version_that_serves_is_replaced_by_the_one_before(
    person: Pipeline, cluster: Cluster, operators: StartOperator
) -> None:
    trying(cluster, operators)
    assert person.run("promote", "desk").code == 0
    eventually(lambda: settled(cluster, "v2", "stable") and status(cluster).get("candidate") is None)
    process = person.start("rollback", "desk", "--version", "v2")
    eventually(lambda: cluster.get("dlsvc", "desk")["spec"]["model"].get("version") == "v1")
    code, out, _ = ended(process)
    assert (code, "v1 is pinned and the candidate, v2 serves" in out) == (0, True)
    eventually(lambda: ready(cluster, "v1"))
    assert person.run("promote", "desk", "--version", "v1").code == 0
    eventually(lambda: settled(cluster, "v1", "stable"))
    assert cluster.get("dlsvc", "desk")["spec"]["model"]["version"] == "v1", "a command about the rollout keeps the pin"


def ready(cluster: Cluster, version: str) -> Any:
    play_kubelet(cluster)
    candidate = status(cluster).get("candidate") or {}
    return candidate.get("version") == version and candidate.get("readyReplicas")


def test_a_field_that_git_owns_is_not_taken_silently(person: Pipeline, cluster: Cluster) -> None:
    judged(cluster, "v1")
    cluster.create(service(model={"family": "family", "version": "v2"}))
    code, out, err = person.run("rollback", "desk", "--to", "v1", "--no-wait")
    assert code == 4
    assert ".spec.model.version" in out + err
    assert "another field manager owns a field" in out + err
    assert cluster.get("dlsvc", "desk")["spec"]["model"]["version"] == "v2"
    assert person.run("rollback", "desk", "--to", "v1", "--no-wait", "--force-conflicts").code == 0
    assert cluster.get("dlsvc", "desk")["spec"]["model"]["version"] == "v1"


def test_a_wait_for_an_operator_that_does_not_run_is_bounded(person: Pipeline, cluster: Cluster) -> None:
    candidate(cluster)
    code, out, _ = person.run("pause", "desk", "--timeout", "2s")
    assert code == 3
    assert "waiting until the operator obeys or ignores the command" in out
    code, out, _ = person.run("pause", "desk", "--no-wait", "--by", "Ada")
    note = cluster.get("dlsvc", "desk")["metadata"]["annotations"]["driftloop.dev/rollout"]
    assert (code, out, note[-7:]) == (0, f"service desk: wrote {note!r}\n", " by Ada")
    assert person.run("pause", "none").code == 1


def candidate(cluster: Cluster) -> None:
    """A service with a candidate, and no operator."""
    cluster.create(inferenceservice("desk"))
    roles = {"stable": {"revision": "r1", "version": "v1"}, "candidate": {"revision": "r2", "version": "v2"}}
    cluster.patch_status("dlsvc", "desk", {"observedGeneration": 1, "phase": "Canary", **roles})


def test_the_pipelines_account_decides_about_no_rollout(cluster: Cluster, tmp_path: Path) -> None:
    candidate(cluster)
    code, _, err = pipeline(cluster, tmp_path).run("promote", "desk")
    assert (code, "forbidden" in err) == (4, True)


NEEDED = {
    ("inferenceservices", "get"): ("pause", "desk"),
    ("inferenceservices", "watch"): ("pause", "desk"),
    ("inferenceservices", "patch"): ("pause", "desk"),
    ("modelversions", "get"): ("rollback", "desk", "--to", "v1"),
}


def test_each_right_of_the_role_is_needed(cluster: Cluster, tmp_path: Path) -> None:
    role = next(each for each in yaml.safe_load_all(ROLLOUT.read_text()) if each["kind"] == "Role")
    rights = {(name, verb) for rule in role["rules"] for name in rule["resources"] for verb in rule["verbs"]}
    assert rights == set(NEEDED)
    candidate(cluster)
    for number, (right, command) in enumerate(NEEDED.items()):
        account = f"without-{number}"
        cluster.create(*account_without(role, right, account, cluster.namespace))
        code, out, err = Pipeline(cluster, tmp_path, account).run(*command)
        assert (right, code, "forbidden" in out + err) == (right, 4, True)
