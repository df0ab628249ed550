"""The door's pod: without GPU, model, token and storage."""

from driftloop.api.base import Affinity, ForeignRef, NodeAffinity, PodOverrides, Toleration, TopologySpread
from driftloop.contract.task import DoorTask, decode
from driftloop.controller.pods.door import LINGER_SECONDS, door_template
from driftloop.controller.vocabulary.labels import SERVICE, STAGE
from driftloop.controller.vocabulary.plan import Obj, Settings

SPREAD = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}
SETTINGS = Settings(trainer_image="driftloop/trainer:1", server_image="driftloop/server:1")
TASK = DoorTask(
    service="desk",
    pods_url="http://desk-pods.team.svc.cluster.local.",
    hold_seconds=300,
    linger_seconds=LINGER_SECONDS,
    drain_seconds=LINGER_SECONDS + 300,
)


def template(task: DoorTask = TASK, overrides: PodOverrides | None = None) -> Obj:
    return door_template(
        task,
        labels={SERVICE: "desk"},
        settings=SETTINGS,
        overrides=overrides or PodOverrides(),
        keys_secret="desk-keys",
    )


def test_it_meets_the_restricted_standard_and_gets_no_api_token() -> None:
    spec = template()["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"]
    [container] = spec["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert set(container["resources"]["limits"]) == {"cpu", "memory"}


def test_it_has_the_ports_of_a_serving_pod_and_its_own_task() -> None:
    pod = template()
    [container] = pod["spec"]["containers"]
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == {"api": 8080, "metrics": 9090}
    assert pod["metadata"]["labels"][STAGE] == "door"
    [task] = [entry["value"] for entry in container["env"] if entry["name"] == "DRIFTLOOP_TASK"]
    assert decode(task) == TASK


def test_it_may_end_all_requests_that_it_holds() -> None:
    assert template()["spec"]["terminationGracePeriodSeconds"] > LINGER_SECONDS + 300


def test_it_needs_no_node_for_models_and_no_credentials_of_storage() -> None:
    overrides = PodOverrides(
        node_selector={"gpu": "h100"},
        affinity=Affinity(node_affinity=NodeAffinity()),
        topology_spread_constraints=[TopologySpread.model_validate(SPREAD)],
        runtime_class_name="nvidia",
        storage_secret=ForeignRef(name="s3"),
        image_pull_secrets=[ForeignRef(name="registry")],
        tolerations=[Toleration(key="team", operator="Exists")],
    )
    spec = template(overrides=overrides)["spec"]
    assert {"nodeSelector", "runtimeClassName", "affinity", "topologySpreadConstraints"}.isdisjoint(spec)
    assert "envFrom" not in spec["containers"][0]
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert {"key": "team", "operator": "Exists"} in spec["tolerations"]


def test_it_knows_the_token_of_ratings_only_if_the_service_takes_them() -> None:
    [plain] = template()["spec"]["containers"]
    [rated] = template(TASK.model_copy(update={"ratings_url": "http://desk-pods:81"}))["spec"]["containers"]
    assert {port["name"]: port["containerPort"] for port in rated["ports"]}["feedback"] == 8081
    key = {"secretKeyRef": {"name": "desk-keys", "key": "token"}}
    assert {"name": "DRIFTLOOP_FEEDBACK_TOKEN", "valueFrom": key} in rated["env"]
    assert "DRIFTLOOP_SIGNING_KEY" not in {entry["name"] for entry in rated["env"]}
    assert "DRIFTLOOP_FEEDBACK_TOKEN" not in {entry["name"] for entry in plain["env"]}


def test_it_checks_the_api_keys_of_the_service() -> None:
    spec = template(TASK.model_copy(update={"api_keys_secret": "keys"}))["spec"]
    assert {"name": "api-keys", "secret": {"secretName": "keys", "optional": True}} in spec["volumes"]
    [mount] = [mount for mount in spec["containers"][0]["volumeMounts"] if mount["name"] == "api-keys"]
    assert mount["readOnly"]
    assert "api-keys" not in {volume["name"] for volume in template()["spec"]["volumes"]}
