"""What every pod has: no root, no token, memory to write to, its volumes, and a task that Kubernetes can't expand."""

import pytest

from driftloop.api.base import PodOverrides, Resources
from driftloop.api.suite import SuiteSpec
from driftloop.contract.task import EvaluateTask, EvaluationArm, decode
from driftloop.contract.uris import claim_of
from driftloop.controller.pods.common import (
    Gpus,
    TaskTooLarge,
    container_resources,
    missing_claim,
    mounts_for,
    pod_metadata,
    pod_spec,
    restricted_container,
    scratch_with_shm,
    task_env,
)
from unit.controller.stages import SETTINGS, claim, digest


def task(suites: int = 0, output: str = "pvc://a/b") -> EvaluateTask:
    arm = EvaluationArm(version="v", digest=digest(), url="http://127.0.0.1:8080", ready_url="http://127.0.0.1:9090")
    items = [SuiteSpec(name=f"s{i}", kind="floor", uri="s3://b/" + "x" * 400) for i in range(suites)]
    return EvaluateTask(family="f", candidate=arm, suites=items, output=output)


def test_a_container_can_do_nothing_but_its_work() -> None:
    found = restricted_container("main", "image:1", ["run"], settings=SETTINGS)
    assert found["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert "ports" not in found
    assert "resources" not in found


def test_a_pod_has_no_token_and_no_root() -> None:
    spec = pod_spec([], volumes=[], overrides=PodOverrides())
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["securityContext"]["runAsUser"] == spec["securityContext"]["fsGroup"] == 65532
    assert spec["securityContext"]["runAsNonRoot"] is True


def test_our_labels_win_over_the_platforms() -> None:
    overrides = PodOverrides(labels={"stage": "theirs", "cost": "x"})
    assert pod_metadata({"stage": "ours"}, overrides, SETTINGS)["labels"] == {"stage": "ours", "cost": "x"}


def test_each_claim_is_mounted_once_and_read_only_where_nothing_is_written() -> None:
    volumes, mounts = mounts_for(
        ["pvc://out/a", "pvc://out/b", "s3://bucket/c", None], read=["pvc://in/d", "pvc://out/e"]
    )
    assert [volume["persistentVolumeClaim"]["claimName"] for volume in volumes] == ["in", "out"]
    assert {mount["mountPath"]: mount.get("readOnly", False) for mount in mounts} == {
        "/volumes/in": True,
        "/volumes/out": False,
    }
    assert [volume["name"] for volume in volumes] == [mount["name"] for mount in mounts]


def test_a_claim_with_a_long_dotted_name_has_a_volume_name_all_the_same() -> None:
    (volume,), _ = mounts_for(["pvc://" + "a.b" * 60 + "/x"])
    assert len(volume["name"]) <= 63
    assert "." not in volume["name"]


def test_tmp_and_shm_are_memory() -> None:
    volumes, mounts = scratch_with_shm()
    assert all(volume["emptyDir"] == {"medium": "Memory"} for volume in volumes)
    assert [mount["mountPath"] for mount in mounts] == ["/tmp", "/dev/shm"]


def test_pods_name_the_scheduler_that_places_them_only_if_it_is_another_one() -> None:
    chosen = PodOverrides(scheduler_name="gang-scheduler")
    assert pod_spec([], volumes=[], overrides=chosen)["schedulerName"] == "gang-scheduler"
    assert "schedulerName" not in pod_spec([], volumes=[], overrides=PodOverrides())


def test_gpus_are_a_limit_and_nothing_is_said_where_nothing_is_wanted() -> None:
    assert container_resources(Resources(), Gpus("nvidia.com/gpu", 2)) == {"limits": {"nvidia.com/gpu": "2"}}
    for none in (Gpus("nvidia.com/gpu", 0), Gpus("nvidia.com/gpu", 0, "h100s"), None):
        assert container_resources(Resources(), none) == {}


def test_a_task_is_read_back_as_it_was_and_holds_no_dollar() -> None:
    (variable,) = task_env(task(output="pvc://a/$(HOME)"))
    assert "$" not in variable["value"]
    assert decode(variable["value"]) == task(output="pvc://a/$(HOME)")


def test_a_task_that_no_environment_holds_is_refused() -> None:
    with pytest.raises(TaskTooLarge, match=r"fewer sources .* or suites, or shorten chatTemplate"):
        task_env(task(suites=200))


@pytest.mark.parametrize(
    ("uri", "name"), [("pvc://shared/a/b", "shared"), ("pvc://shared", "shared"), ("s3://bucket/a", None)]
)
def test_the_claim_is_the_first_part_of_a_pvc_uri(uri: str, name: str | None) -> None:
    assert claim_of(uri) == name


def test_a_missing_claim_is_named() -> None:
    assert missing_claim(["pvc://shared/a", "s3://bucket/b", None], claim()) is None
    assert "other" in (missing_claim(["pvc://shared/a", "pvc://other/b"], claim()) or "")
