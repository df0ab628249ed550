"""The Jobs have the shape that was measured on real nodes, and carry what the stage must know."""

import pytest

from driftloop.api.finetunejob import FineTuneJob
from driftloop.api.modelversion import Lineage
from driftloop.contract.names import DISK_DIR
from driftloop.contract.task import ModelSource, PrepareTask, TrainTask
from driftloop.controller.pods import jobs
from driftloop.controller.vocabulary.labels import JOB, STAGE
from driftloop.controller.vocabulary.naming import controlled_by
from driftloop.controller.vocabulary.plan import Obj
from unit.controller.stages import SETTINGS, UID, digest, job


def placement(body: Obj) -> jobs.Placement:
    spec = FineTuneJob.model_validate(body).spec
    return jobs.Placement(spec.compute, spec.pod_overrides, SETTINGS)


def train_task(body: Obj, attempt: int = 1) -> TrainTask:
    spec = FineTuneJob.model_validate(body).spec
    return TrainTask(
        job="tune",
        job_uid=UID,
        family="support",
        model=ModelSource(uri="pvc://models/base", digest=digest("b")),
        data_uri="pvc://shared/prepared",
        data_digest=digest("c"),
        training=spec.training,
        nodes=spec.compute.nodes,
        workers_per_node=1,
        gpus_per_node=spec.compute.gpus_per_node,
        gradient_accumulation_steps=1,
        per_device_train_batch_size=16,
        total_steps=63,
        head=jobs.head_name(body, attempt, SETTINGS),
        startup_timeout_seconds=600,
        grace_period_seconds=spec.compute.grace_period_seconds,
        backoff_limit=3,
        attempt=attempt,
        runs="pvc://shared/runs",
        output="pvc://shared/versions",
        lineage=Lineage(job="tune"),
    )


def train_job(**spec: object) -> Obj:
    body = job(**spec)
    return jobs.train_job(body, train_task(body), placement(body), {"note": "x"})


def pod(body: Obj) -> Obj:
    found: Obj = body["spec"]["template"]["spec"]
    return found


def environment(container: Obj) -> dict[str, object]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


def test_the_train_job_has_the_shape_that_was_measured() -> None:
    spec = train_job()["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 2, 2)
    assert spec["successPolicy"] == {"rules": [{"succeededIndexes": "0"}]}
    assert (spec["backoffLimitPerIndex"], spec["maxFailedIndexes"], spec["podReplacementPolicy"]) == (3, 0, "Failed")
    assert spec["podFailurePolicy"]["rules"] == [
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [78]}},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]
    assert "suspend" not in spec


def test_pods_spread_over_nodes_only_where_there_are_several() -> None:
    term = pod(train_job())["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    assert term["labelSelector"]["matchLabels"] == {JOB: "tune", STAGE: "train"}
    assert "affinity" not in pod(train_job(compute={"nodes": 1}))


def test_pods_are_apart_also_with_an_affinity_of_the_platform_s() -> None:
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    term = {"topologyKey": "rack", "labelSelector": {"matchLabels": {"cost": "team"}, "matchExpressions": []}}
    chosen = {"podAffinity": {required: [term]}, "podAntiAffinity": {required: [term]}}
    affinity = pod(train_job(podOverrides={"affinity": chosen}))["affinity"]
    assert affinity["podAffinity"][required] == [term]
    assert [each["topologyKey"] for each in affinity["podAntiAffinity"][required]] == ["rack", "kubernetes.io/hostname"]


def test_the_head_is_found_by_a_name_that_the_service_makes() -> None:
    body = job()
    made, service = train_job(), jobs.train_service(body, SETTINGS)
    hostname = f"{made['metadata']['name']}-0.{service['metadata']['name']}"
    assert train_task(body).head == f"{hostname}.team.svc.cluster.local"
    assert pod(made)["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["publishNotReadyAddresses"]
    assert service["spec"]["selector"].items() <= made["spec"]["template"]["metadata"]["labels"].items()


def test_ray_wants_the_token_of_the_jobs_own_secret() -> None:
    env = environment(pod(train_job())["containers"][0])
    secret = jobs.ray_secret(job(), "hush", SETTINGS)
    assert env["RAY_AUTH_MODE"] == "token"
    assert env["RAY_AUTH_TOKEN"] == {"secretKeyRef": {"name": secret["metadata"]["name"], "key": "token"}}
    assert secret["stringData"] == {"token": "hush"}


def test_a_lost_node_is_borne_for_half_a_minute() -> None:
    for body in (train_job(), prepare_job()):
        seconds = {entry["key"]: entry["tolerationSeconds"] for entry in pod(body)["tolerations"]}
        assert seconds == {"node.kubernetes.io/not-ready": 30, "node.kubernetes.io/unreachable": 30}


def test_a_training_knows_how_much_it_may_write_to_the_disk_of_its_node() -> None:
    (variable,) = (each for each in pod(train_job())["containers"][0]["env"] if each["name"] == "DRIFTLOOP_DISK_LIMIT")
    assert variable["valueFrom"] == {"resourceFieldRef": {"resource": "limits.ephemeral-storage"}}


def test_gpus_go_to_training_alone() -> None:
    gpus = {"nodes": 2, "gpusPerNode": 8, "workersPerNode": 8}
    limits = pod(train_job(compute=gpus))["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "8"
    assert "resources" not in pod(prepare_job(compute=gpus))["containers"][0]


def test_gpus_of_another_kind_are_asked_for_by_their_resource() -> None:
    sliced = {"gpusPerNode": 2, "gpuResource": "nvidia.com/mig-3g.40gb"}
    limits = pod(train_job(compute=sliced))["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/mig-3g.40gb"] == "2"
    assert "nvidia.com/gpu" not in limits


def test_gpus_of_a_claim_are_in_each_pod_of_the_training_alone() -> None:
    claimed = {"gpusPerNode": 2, "gpuClaimTemplate": "h100s"}
    trains = pod(train_job(compute=claimed))
    (claim,) = trains["resourceClaims"]
    assert claim["resourceClaimTemplateName"] == "h100s"
    resources = trains["containers"][0]["resources"]
    assert resources["claims"] == [{"name": claim["name"]}]
    assert "nvidia.com/gpu" not in resources.get("limits", {})
    assert "resourceClaims" not in pod(prepare_job(compute=claimed))


def test_variables_of_the_users_go_to_training_alone_and_replace_none_of_the_operators() -> None:
    variables = {"env": [{"name": "NCCL_SOCKET_IFNAME", "value": "eth0"}]}
    assert environment(pod(train_job(compute=variables))["containers"][0])["NCCL_SOCKET_IFNAME"] == "eth0"
    assert "NCCL_SOCKET_IFNAME" not in environment(pod(prepare_job(compute=variables))["containers"][0])
    # The API refuses these names; an older CRD would not, and of two variables with one name the later one counts.
    forged = train_job(compute={"env": [{"name": "RAY_AUTH_MODE", "value": "none"}]})
    assert environment(pod(forged)["containers"][0])["RAY_AUTH_MODE"] == "token"


def test_a_queue_is_named_and_suspend_left_to_it() -> None:
    queued = {"nodes": 2, "queueName": "research"}
    for body in (train_job(compute=queued), prepare_job(compute=queued)):
        assert body["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
        assert "suspend" not in body["spec"]
    assert "kueue.x-k8s.io/queue-name" not in train_job()["metadata"]["labels"]


def test_what_is_only_read_is_mounted_read_only() -> None:
    mounts = {m["mountPath"]: m.get("readOnly", False) for m in pod(train_job())["containers"][0]["volumeMounts"]}
    assert mounts["/volumes/shared"] is False
    assert mounts["/volumes/models"] is True


def test_the_folders_of_an_adapters_bases_are_mounted_read_only() -> None:
    body = job()
    model = ModelSource(uri="pvc://shared/v1", bases=("pvc://adapters/v0", "pvc://models/base"))
    train = train_task(body).model_copy(update={"model": model})
    prepare = jobs.task_of(prepare_job())
    assert isinstance(prepare, PrepareTask)
    for made in (
        jobs.train_job(body, train, placement(body), {}),
        jobs.prepare_job(body, prepare.model_copy(update={"model": model}), placement(body), {}),
    ):
        mounts = {m["mountPath"]: m.get("readOnly", False) for m in pod(made)["containers"][0]["volumeMounts"]}
        assert (mounts["/volumes/adapters"], mounts["/volumes/models"]) == (True, True)


def prepare_job(**spec: object) -> Obj:
    body = job(**spec)
    parsed = FineTuneJob.model_validate(body).spec
    task = PrepareTask(
        job="tune",
        job_uid=UID,
        family="support",
        model=ModelSource(uri="pvc://models/base"),
        data=parsed.data,
        training=parsed.training,
        suites=tuple(parsed.evaluation.suites),
        contract=parsed.evaluation.contract,
        storage=parsed.storage,
        output="pvc://shared/prepared",
    )
    return jobs.prepare_job(body, task, placement(body), {})


def test_prepare_mounts_every_claim_that_it_reads() -> None:
    data = {
        "sources": [{"name": "rows", "uri": "pvc://rows/a.csv"}, {"name": "cloud", "uri": "s3://bucket/b.csv"}],
        "replay": {"sources": [{"name": "old", "uri": "pvc://old/c.csv"}]},
    }
    suites = [{"name": "floor", "kind": "floor", "uri": "pvc://items/d.jsonl"}]
    body = prepare_job(data=data, evaluation={"suites": suites, "contract": {"uri": "pvc://asked/r.jsonl"}})
    claims = {v["persistentVolumeClaim"]["claimName"] for v in pod(body)["volumes"] if "persistentVolumeClaim" in v}
    assert claims == {"rows", "old", "items", "asked", "models", "shared"}


@pytest.mark.parametrize("body", [train_job(), prepare_job()], ids=["train", "prepare"])
def test_the_task_can_be_read_back_from_the_job(body: Obj) -> None:
    task = jobs.task_of(body)
    assert isinstance(task, TrainTask | PrepareTask)
    assert task.job_uid == UID


def test_a_job_without_a_readable_task_has_none() -> None:
    body = train_job()
    environment_list = pod(body)["containers"][0]["env"]
    for entry in environment_list:
        if entry["name"] == "DRIFTLOOP_TASK":
            entry["value"] = "{}"
    assert jobs.task_of(body) is None


@pytest.mark.parametrize("body", [train_job(), prepare_job(), jobs.job_policy(job(), SETTINGS)])
def test_what_is_made_belongs_to_the_job_by_uid(body: Obj) -> None:
    assert controlled_by(body, UID)
    assert body["metadata"]["namespace"] == "team"


def test_only_the_jobs_own_pods_and_metrics_get_in() -> None:
    spec = jobs.job_policy(job(), SETTINGS)["spec"]
    assert spec["policyTypes"] == ["Ingress"]
    own, metrics = spec["ingress"]
    assert own == {"from": [{"podSelector": spec["podSelector"]}]}
    assert metrics == {"ports": [{"port": 9090, "protocol": "TCP"}]}
    assert spec["podSelector"]["matchLabels"].items() <= train_job()["spec"]["template"]["metadata"]["labels"].items()


def test_overrides_reach_the_pods_but_not_our_labels() -> None:
    overrides = {"labels": {"cost": "x"}, "priorityClassName": "high", "storageSecret": {"name": "keys"}}
    body = train_job(podOverrides=overrides)
    assert body["spec"]["template"]["metadata"]["labels"]["cost"] == "x"
    assert pod(body)["priorityClassName"] == "high"
    assert pod(body)["containers"][0]["envFrom"] == [{"secretRef": {"name": "keys"}}]


def test_a_training_of_the_users_own_runs_in_its_image_with_its_code_read_only() -> None:
    own = {"entrypoint": "own:train", "image": "team/trainer:1", "code": "pvc://code/lib"}
    spec = pod(train_job(training=own))
    container = spec["containers"][0]
    assert (container["image"], container["command"]) == ("team/trainer:1", ["python", "-m", "driftloop_trainer.train"])
    assert container["securityContext"] == pod(train_job())["containers"][0]["securityContext"]
    assert spec["securityContext"] == pod(train_job())["securityContext"]
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}
    assert mounts["/volumes/code"]
    assert pod(prepare_job(training=own))["containers"][0]["image"] == SETTINGS.trainer_image


def test_only_training_pods_get_the_credentials_of_trackers() -> None:
    tracked = {"reportTo": ["wandb"], "tracking": {"secret": {"name": "tracker"}}}
    secrets = pod(train_job(training=tracked, podOverrides={"storageSecret": {"name": "keys"}}))["containers"][0]
    assert secrets["envFrom"] == [{"secretRef": {"name": "keys"}}, {"secretRef": {"name": "tracker"}}]
    assert "envFrom" not in pod(prepare_job(training=tracked))["containers"][0]


def test_training_pods_have_the_grace_period_that_was_asked_for() -> None:
    assert pod(train_job())["terminationGracePeriodSeconds"] == 30
    assert pod(train_job(compute={"gracePeriodSeconds": 240}))["terminationGracePeriodSeconds"] == 240


@pytest.mark.parametrize("body", [train_job(), prepare_job()], ids=["train", "prepare"])
def test_rows_have_room_on_the_disk_of_the_node(body: Obj) -> None:
    """What lies in the other volumes of a pod counts as its memory."""
    (volume,) = (volume for volume in pod(body)["volumes"] if volume["name"] == "disk")
    mounts = {m["mountPath"]: m["name"] for m in pod(body)["containers"][0]["volumeMounts"]}
    assert volume["emptyDir"] == {}
    assert mounts[DISK_DIR] == "disk"
