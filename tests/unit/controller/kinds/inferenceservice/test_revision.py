"""What makes a revision another one, and what its Deployment says."""

from dataclasses import replace
from typing import Any

import pytest

from driftloop.api.base import PodOverrides
from driftloop.contract.names import TASK_ENV
from driftloop.contract.task import ServeTask, decode
from driftloop.controller.kinds.inferenceservice.observed import Observed, parse_revision
from driftloop.controller.kinds.inferenceservice.revision import deployment, revision_of, serve_task
from driftloop.controller.vocabulary.plan import Obj, Settings
from unit.controller.kinds.inferenceservice.builders import NOW, SETTINGS, retraining, service, version

V1 = version("v1")


@pytest.mark.parametrize(
    "spec",
    [
        {"engine": {"args": ["--seed=1"]}},
        {"engine": {"image": "my/server:2"}},
        {"engine": {"resources": {"limits": {"memory": "2Gi"}}}},
        {"engine": {"gpus": 1}},
        {"engine": {"maxModelLen": 512}},
        {"engine": {"chatTemplate": "{{ messages }}"}},
        {"engine": {"chatTemplateKwargs": {"enable_thinking": False}}},
        {"drainSeconds": 31},
        {"requestTimeoutSeconds": 7200},
        {"allowedOrigins": ["https://chat.example.org"]},
        {"apiKeys": {"name": "desk-clients"}},
        {"tls": {"secretName": "desk-tls"}},
        {"modelCache": {"storage": "pvc://copies/models", "maxSize": "200Gi"}},
        {"feedback": {"storage": "pvc://shared/feedback"}},
        {"drift": {"topics": True}},
        {"podOverrides": {"nodeSelector": {"gpu": "yes"}}},
    ],
)
def test_what_makes_the_pods_makes_another_revision(spec: Obj) -> None:
    assert revision_of(service(spec), V1, SETTINGS) != revision_of(service(), V1, SETTINGS)


@pytest.mark.parametrize(
    "spec",
    [
        {"replicas": 7},
        {"canary": {"minRequests": 7}},
        {"drift": {"enabled": False, "topics": False}},
        retraining(),
        {"model": {"family": "desk", "version": "v1"}},
        {"engine": {"type": "transformers", "maxNumSeqs": 32}},  # the defaults, spelled out
        {"requestTimeoutSeconds": 3600},
        {"allowedOrigins": []},
        {"engine": {"gpuMemory": "80Gi"}},
    ],
)
def test_what_does_not_touch_the_pods_makes_no_other_revision(spec: Obj) -> None:
    assert revision_of(service(spec), V1, SETTINGS) == revision_of(service(), V1, SETTINGS)


VLLM: Obj = {"engine": {"type": "vllm", "image": "vllm:1", "gpus": 1}}
WITH_VLLM = replace(SETTINGS, vllm_image="vllm:1")


def test_the_choice_of_an_engine_keeps_the_revisions_that_named_one() -> None:
    assert revision_of(service(), V1, WITH_VLLM) == "4dc95f7971"  # as before `auto` was the default
    assert revision_of(service({"engine": {"type": "transformers"}}), V1, WITH_VLLM) == "4dc95f7971"
    assert revision_of(service(VLLM), V1, WITH_VLLM) == "c2382c9ce8"


def deployed(observed: Observed, replicas: int, settings: Settings) -> Obj:
    """The Deployment of V1."""
    return deployment(observed, V1, revision_of(observed, V1, settings), replicas, settings, NOW)


def test_an_image_of_vllm_moves_services_with_gpus_to_it() -> None:
    observed = service({"engine": {"gpus": 1}})
    before, after = (deployed(observed, 1, settings) for settings in (SETTINGS, WITH_VLLM))
    assert before["metadata"]["name"] != after["metadata"]["name"]
    assert _engine(before)["image"] == SETTINGS.server_image
    assert (_engine(after)["image"], _engine(after)["command"][0]) == ("vllm:1", "vllm")
    newer = deployed(observed, 1, replace(SETTINGS, vllm_image="vllm:2"))
    assert newer["metadata"]["name"] == after["metadata"]["name"]  # restarts nothing, as with the server's image
    explicit = service({"engine": {"gpus": 1, "type": "vllm"}})
    assert revision_of(explicit, V1, WITH_VLLM) == revision_of(observed, V1, WITH_VLLM)


def _engine(body: Obj) -> Obj:
    containers: list[Obj] = body["spec"]["template"]["spec"]["initContainers"]
    return next(container for container in containers if container["name"] == "engine")


def test_an_upgrade_of_the_operator_makes_no_other_revision() -> None:
    before = deployed(service(), 2, SETTINGS)
    after = deployed(service(), 2, Settings(trainer_image="t:2", server_image="s:2"))
    assert before["metadata"]["name"] == after["metadata"]["name"]


def test_another_version_is_another_revision() -> None:
    assert revision_of(service(), V1, SETTINGS) != revision_of(service(), version("v2"), SETTINGS)


def test_the_pods_of_an_adapter_know_where_its_bases_are() -> None:
    adapter = version("v1", bases=("pvc://shared/v0", "pvc://shared/base"))
    body = deployment(service(), adapter, "r1", 1, SETTINGS, NOW)
    (fetch, *_) = body["spec"]["template"]["spec"]["initContainers"]
    task = decode(next(variable["value"] for variable in fetch["env"] if variable["name"] == TASK_ENV))
    assert isinstance(task, ServeTask)
    assert task.artefact_bases == adapter.bases
    assert revision_of(service(), adapter, SETTINGS) != revision_of(service(), V1, SETTINGS)


def test_an_adapter_beside_its_base_is_another_revision_and_so_is_another_rank() -> None:
    adapter = version("v1", bases=("pvc://shared/base",))
    engines: list[Obj] = [{}, {"adapters": {}}, {"adapters": {"maxRank": 64}}]
    services = [service({"engine": VLLM["engine"] | engine}) for engine in engines]
    bodies = [
        deployment(observed, adapter, revision_of(observed, adapter, SETTINGS), 1, SETTINGS, NOW)
        for observed in services
    ]
    assert len({body["metadata"]["name"] for body in bodies}) == 3
    assert ["--enable-lora" in _engine(body)["command"] for body in bodies] == [False, True, True]
    assert _engine(bodies[2])["command"][-3:] == ["64", "--max-loras", "1"]


def test_a_deployment_is_read_back_as_it_was_written() -> None:
    observed = service()
    body = deployed(observed, 3, SETTINGS)
    body["metadata"] |= {"uid": "u", "creationTimestamp": "2026-03-01T12:00:00Z", "generation": 1}
    found = parse_revision(body | {"status": {"observedGeneration": 1, "availableReplicas": 2, "replicas": 3}})
    assert found is not None
    assert (found.revision, found.version, found.digest, found.role) == (
        revision_of(observed, V1, SETTINGS),
        "v1",
        V1.digest,
        "candidate",
    )
    assert (found.replicas, found.available, found.pods, found.since) == (3, 2, 3, NOW)
    assert found.engine == "transformers"


def test_pods_count_as_there_until_the_controller_has_looked() -> None:
    body = deployed(service(), 0, SETTINGS)
    body["metadata"] |= {"uid": "u", "creationTimestamp": "2026-03-01T12:00:00Z", "generation": 2}
    unseen = parse_revision(body | {"status": {"observedGeneration": 1}})
    assert unseen is not None
    assert unseen.pods == 1


@pytest.mark.parametrize("label", ["driftloop.dev/role", "driftloop.dev/revision", "driftloop.dev/version"])
def test_a_deployment_without_our_labels_is_none_of_ours(label: str) -> None:
    body = deployed(service(), 1, SETTINGS)
    body["metadata"] |= {"uid": "u", "creationTimestamp": "2026-03-01T12:00:00Z"}
    del body["metadata"]["labels"][label]
    assert parse_revision(body) is None


def test_a_rollout_within_a_deployment_never_takes_a_pod_away_first() -> None:
    spec = deployed(service(), 1, SETTINGS)["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()


def test_feedback_has_a_folder_of_the_services_own() -> None:
    spec: dict[str, Any] = {"feedback": {"storage": "pvc://shared/feedback/", "retentionDays": 7}}
    task = serve_task(service(spec), V1, "r", SETTINGS)
    assert (task.feedback_uri, task.feedback_retention_days) == ("pvc://shared/feedback/uid-desk", 7)
    assert serve_task(service(), V1, "r", SETTINGS).feedback_uri is None


def test_corrections_are_held_back_as_the_retrainings_data_says() -> None:
    spec = retraining()
    spec["retraining"]["jobTemplate"]["spec"] = spec["retraining"]["jobTemplate"]["spec"] | {
        "data": {"feedback": {"service": "desk"}, "heldOutPercent": 25}
    }
    assert serve_task(service(spec), V1, "r", SETTINGS).held_out_percent == 25


def test_corrections_are_held_back_as_the_served_versions_lineage_says() -> None:
    spec = retraining()
    spec["retraining"]["jobTemplate"]["spec"] = spec["retraining"]["jobTemplate"]["spec"] | {
        "data": {"feedback": {"service": "desk"}, "heldOutPercent": 25}
    }
    inherited = version("v1", held_out_salt="base", held_out_percent=20)
    for observed in (service(), service(spec)):
        task = serve_task(observed, inherited, "r", SETTINGS)
        assert (task.held_out_salt, task.held_out_percent) == ("base", 20)
    assert revision_of(service(spec), inherited, SETTINGS) == revision_of(service(), inherited, SETTINGS)
    assert revision_of(service(), inherited, SETTINGS) != revision_of(service(), V1, SETTINGS)


def test_the_rule_of_a_version_that_records_none_makes_no_other_revision() -> None:
    assert revision_of(service(), V1, SETTINGS) == "4dc95f7971"  # as before lineages recorded it
    same = version("v1", held_out_salt="desk", held_out_percent=10)
    assert revision_of(service(), same, SETTINGS) == revision_of(service(), V1, SETTINGS)


def test_the_platforms_overrides_reach_the_pods() -> None:
    overrides = PodOverrides(labels={"cost": "x"}, node_selector={"gpu": "yes"}, priority_class_name="high")
    body = deployed(service({"podOverrides": overrides.dump()}), 1, SETTINGS)
    template = body["spec"]["template"]
    assert template["metadata"]["labels"]["cost"] == "x"
    assert template["spec"]["nodeSelector"] == {"gpu": "yes"}
    assert template["spec"]["priorityClassName"] == "high"


@pytest.mark.parametrize(("canary", "percent"), [({}, 10), ({"shadow": {"percent": 25}}, 25)])
def test_pods_want_copies_also_if_the_shadow_is_added_later(canary: dict[str, Any], percent: float) -> None:
    assert serve_task(service({"canary": canary}), V1, "r1", SETTINGS).shadow_percent == percent
