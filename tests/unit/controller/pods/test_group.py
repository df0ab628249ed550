"""The pods of a replica over several nodes: what a worker takes over from its leader's template, and what not."""

from typing import Any

from driftloop.api.base import PodOverrides
from driftloop.api.engine import Engine, EnvVar
from driftloop.controller.pods.group import nodes_of, peers, worker, worker_name
from driftloop.controller.pods.serving import SERVE
from driftloop.controller.vocabulary.labels import LEADER as LEADER_LABEL
from driftloop.controller.vocabulary.labels import SERVICE, STAGE
from driftloop.controller.vocabulary.plan import Obj
from unit.controller.pods.test_serving import containers, template

LEADER: Obj = {
    "metadata": {"name": "desk-0123-abc", "namespace": "team", "uid": "uid-leader"},
    "spec": {"nodeName": "node-1"},
    "status": {"podIP": "10.0.0.7"},
}


def spread(nodes: int = 3, overrides: PodOverrides | None = None, **fields: Any) -> Obj:
    return template(Engine(type="vllm", image="vllm:1", gpus=4, nodes=nodes, **fields), overrides)


def test_the_leader_waits_for_its_workers_at_its_own_address() -> None:
    engine = containers(spread())["engine"]
    arguments = " ".join(engine["command"])
    assert "--tensor-parallel-size 4 --pipeline-parallel-size 3" in arguments
    assert "--distributed-executor-backend mp --nnodes 3 --node-rank 0 --master-addr $(VLLM_HOST_IP)" in arguments
    assert "--headless" not in arguments
    address = {"name": "VLLM_HOST_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    assert address in engine["env"]
    assert engine["resources"]["limits"]["nvidia.com/gpu"] == "4"


def test_a_replica_of_one_pod_has_none_of_this() -> None:
    engine = containers(template(Engine(type="vllm", image="vllm:1", gpus=4)))["engine"]
    assert "--nnodes" not in engine["command"]
    assert all(variable["name"] != "VLLM_HOST_IP" for variable in engine["env"])
    assert nodes_of(template()) == nodes_of(template(Engine(type="vllm", image="vllm:1"))) == 1
    assert nodes_of(spread(3)) == 3


def test_a_custom_engine_with_such_options_is_not_a_group() -> None:
    command = ["python3", "-m", "sglang.launch_server", "--nnodes", "2", "--node-rank", "0"]
    assert nodes_of(template(Engine(type="custom", image="sglang:1", command=command))) == 1
    address = ["--master-addr", "$(VLLM_HOST_IP)"]
    assert nodes_of(template(Engine(type="custom", image="sglang:1", command=[*command, *address]))) == 1
    assert nodes_of(template(Engine(type="custom", image="x:1", command=["serve", "--nnodes", "two", *address]))) == 1


def test_a_worker_has_no_gate_that_only_its_leader_s_controller_removes() -> None:
    held = spread()
    held["spec"]["schedulingGates"] = [{"name": "kueue.x-k8s.io/topology"}]
    assert "schedulingGates" not in worker(held, LEADER, 1, 0)["spec"]


def test_a_worker_runs_the_same_engine_with_its_rank_at_the_leader_s_address() -> None:
    pod = worker(spread(args=["--enable-prefix-caching"]), LEADER, 2, 0)
    [engine] = pod["spec"]["containers"]
    leaders = containers(spread(args=["--enable-prefix-caching"]))["engine"]
    changed = [(old, new) for old, new in zip(leaders["command"], engine["command"], strict=False) if old != new]
    assert changed == [("0", "2"), ("$(VLLM_HOST_IP)", "10.0.0.7")]
    assert engine["command"][len(leaders["command"]) :] == ["--headless"]
    assert "restartPolicy" not in engine
    assert "livenessProbe" not in engine
    same = {"image", "env", "resources", "securityContext", "volumeMounts"}
    assert {name: engine[name] for name in same} == {name: leaders[name] for name in same}


def test_a_worker_fetches_the_model_and_has_neither_proxy_nor_keys_nor_feedback() -> None:
    spec = worker(spread(), LEADER, 1, 0)["spec"]
    assert [container["name"] for container in spec["initContainers"]] == ["fetch"]
    assert [container["name"] for container in spec["containers"]] == ["engine"]
    claims = [volume["persistentVolumeClaim"]["claimName"] for volume in spec["volumes"] if "emptyDir" not in volume]
    assert claims == ["models"]
    assert spec["restartPolicy"] == "Always"
    assert spec["automountServiceAccountToken"] is False


def test_a_worker_is_placed_as_the_platform_says() -> None:
    overrides = PodOverrides.model_validate({"nodeSelector": {"pool": "gpu"}, "labels": {"cost": "team"}})
    pod = worker(spread(overrides=overrides), LEADER, 1, 0)
    assert pod["spec"]["nodeSelector"] == {"pool": "gpu"}
    assert pod["metadata"]["labels"]["cost"] == "team"


def test_a_worker_keeps_the_affinity_and_the_spread_of_the_platform() -> None:
    rule = {"key": "pool", "operator": "In", "values": ["gpu"]}
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    over_racks = {"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}
    overrides = PodOverrides.model_validate(
        {
            "affinity": {"nodeAffinity": {required: {"nodeSelectorTerms": [{"matchExpressions": [rule]}]}}},
            "topologySpreadConstraints": [over_racks],
        }
    )
    spec = worker(spread(overrides=overrides), LEADER, 1, 0)["spec"]
    assert spec["affinity"]["nodeAffinity"][required]["nodeSelectorTerms"] == [{"matchExpressions": [rule]}]
    [own] = spec["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert own["preference"]["matchFields"][0]["values"] == ["node-1"]
    assert [each["topologyKey"] for each in spec["topologySpreadConstraints"]] == ["rack"]


def test_a_worker_prefers_a_node_without_a_pod_of_its_group() -> None:
    spec = worker(spread(), LEADER, 1, 0)["spec"]
    assert "topologySpreadConstraints" not in spec
    [[node], [pods]] = [next(iter(kind.values())) for kind in spec["affinity"].values()]
    assert node["preference"]["matchFields"] == [{"key": "metadata.name", "operator": "NotIn", "values": ["node-1"]}]
    assert pods["podAffinityTerm"]["labelSelector"]["matchLabels"] == {LEADER_LABEL: "desk-0123-abc"}


def test_no_service_budget_or_deployment_selects_a_worker_and_its_leader_owns_it() -> None:
    pod = worker(spread(), LEADER, 1, 0)
    assert pod["metadata"]["labels"][STAGE] == "serve-worker"
    [owner] = pod["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Pod", "desk-0123-abc", "uid-leader")
    assert owner["controller"] is True


def test_a_worker_of_an_evaluation_s_job_has_no_label_by_which_the_job_controller_selects() -> None:
    found = spread()
    found["metadata"]["labels"] |= {"batch.kubernetes.io/job-name": "eval", "controller-uid": "u", "job-name": "eval"}
    assert worker(found, LEADER, 1, 0)["metadata"]["labels"] == {
        SERVICE: "desk",
        STAGE: "serve-worker",
        LEADER_LABEL: "desk-0123-abc",
    }


def test_each_rank_and_each_start_of_the_leader_s_engine_has_workers_of_its_own_name() -> None:
    names = {worker_name(LEADER, rank, attempt) for rank in (1, 2) for attempt in (0, 1)}
    assert len(names) == 4
    long = LEADER | {"metadata": LEADER["metadata"] | {"name": "x" * 63}}
    assert len(worker_name(long, 15, 12)) <= 63


def test_a_cache_on_cpus_is_shared_by_the_processes_of_one_pod() -> None:
    limits = {"resources": {"limits": {"memory": "32Gi"}}}
    engine = Engine.model_validate({"type": "vllm", "image": "v:1", "nodes": 2} | limits)
    found = {variable["name"]: variable.get("value") for variable in containers(template(engine))["engine"]["env"]}
    assert found["VLLM_CPU_KVCACHE_SPACE"] == "8"


def test_the_user_cannot_change_the_address() -> None:
    engine = containers(spread(env=[EnvVar(name="VLLM_HOST_IP", value="1.2.3.4")]))["engine"]
    assert [variable for variable in engine["env"] if variable["name"] == "VLLM_HOST_IP"][-1]["valueFrom"]


def test_peers_are_leaders_and_workers() -> None:
    selector = peers({SERVICE: "desk"}, SERVE)
    assert selector["matchLabels"] == {SERVICE: "desk"}
    assert selector["matchExpressions"] == [{"key": STAGE, "operator": "In", "values": ["serve", "serve-worker"]}]
