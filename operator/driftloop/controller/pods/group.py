"""The pods of a replica that is spread over nodes: a leader, and workers derived from it. Pure.

The leader is an ordinary serving pod, of a Deployment or of an evaluation's Job. The operator creates its workers once
it has an address, and the leader owns them, so Kubernetes deletes them after it. A worker is derived from the template
that the leader was created from: an upgrade of the operator must not give them different images or arguments.
"""

from collections.abc import Mapping
from itertools import pairwise

from driftloop.controller.pods.common import ENGINE, FETCH, with_affinity
from driftloop.controller.vocabulary.labels import LEADER, SERVICE, STAGE
from driftloop.controller.vocabulary.naming import child_name, owner_reference
from driftloop.controller.vocabulary.objects import field
from driftloop.controller.vocabulary.plan import Obj

# By default vLLM guesses the address at which others reach it, from its route to the Internet.
_HOST = "VLLM_HOST_IP"
ADDRESS: Obj = {"name": _HOST, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
_OWN_ADDRESS = f"$({_HOST})"
_NODES, _RANK, _LEADER = "--nnodes", "--node-rank", "--master-addr"
# Parts of the leader alone. Kueue adds the gates to the Job of an evaluation, and removes them from its pods only.
_OF_LEADER = ("topologySpreadConstraints", "schedulingGates")
# The Job controller adds them to a Job's template.
_OF_JOB = ("batch.kubernetes.io/", "controller-uid", "job-name")


def leader_options(nodes: int) -> dict[str, str]:
    """Options of vLLM in the leader, for its own processes instead of Ray. Kubernetes replaces the variable.

    https://github.com/vllm-project/vllm/pull/23691
    """
    return {"--distributed-executor-backend": "mp", _NODES: str(nodes), _RANK: "0", _LEADER: _OWN_ADDRESS}


def nodes_of(template: Obj) -> int:
    """Pods per replica whose leader is created from `template`. A custom engine may have options of these names."""
    command = (_container(template, ENGINE) or {}).get("command") or []
    nodes = _value(command, _NODES) or ""
    is_ours = command[:2] == ["vllm", "serve"] and _value(command, _LEADER) == _OWN_ADDRESS
    return int(nodes) if is_ours and nodes.isdecimal() else 1


def worker_stage(stage: str) -> str:
    """Value of the label STAGE of the workers of a stage's pods, so that nothing that selects these selects them."""
    return f"{stage}-worker"


def worker_name(leader: Obj, rank: int, attempt: int) -> str:
    """Name of a worker. `attempt`: how often the leader's engine was restarted, as its workers can't join it again."""
    return child_name(leader, f"{rank}-{attempt}")


def worker(template: Obj, leader: Obj, rank: int, attempt: int) -> Obj:
    """The worker with this rank. Its engine is not a sidecar, as it has no proxy that must end before."""
    fetch, engine = _container(template, FETCH), _container(template, ENGINE)
    assert fetch is not None
    assert engine is not None
    bare = {key: value for key, value in engine.items() if key not in ("restartPolicy", "livenessProbe", "ports")}
    container = bare | {"command": _worker_command(engine["command"], rank, leader["status"]["podIP"])}
    mounted = {mount["name"] for each in (fetch, container) for mount in each.get("volumeMounts") or []}
    meta = leader["metadata"]
    own = {LEADER: meta["name"]}
    spread = [each for each in template["spec"].get("topologySpreadConstraints") or [] if not _counts_leaders(each)]
    spec = {key: value for key, value in template["spec"].items() if key not in _OF_LEADER} | {
        **({"topologySpreadConstraints": spread} if spread else {}),
        "affinity": with_affinity(template["spec"].get("affinity") or {}, _apart(leader, own)),
        "initContainers": [fetch],
        "containers": [container],
        "volumes": [volume for volume in template["spec"].get("volumes") or [] if volume["name"] in mounted],
        "restartPolicy": "Always",
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": worker_name(leader, rank, attempt),
            "namespace": meta["namespace"],
            "labels": _labels(template) | own,
            "annotations": field(template, "metadata", "annotations") or {},
            "ownerReferences": [owner_reference({"apiVersion": "v1", "kind": "Pod", "metadata": meta})],
        },
        "spec": spec,
    }


def peers(labels: Mapping[str, str], stage: str) -> Obj:
    """A label selector for the leaders and workers of a stage."""
    stages = {"key": STAGE, "operator": "In", "values": [stage, worker_stage(stage)]}
    return {"matchLabels": dict(labels), "matchExpressions": [stages]}


def _apart(leader: Obj, workers: Mapping[str, str]) -> Obj:
    """Prefer a node without a pod of the same group. The template's spread only counts the pods of all groups."""
    elsewhere = {"key": "metadata.name", "operator": "NotIn", "values": [leader["spec"]["nodeName"]]}
    others = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": dict(workers)}}
    preferred = "preferredDuringSchedulingIgnoredDuringExecution"
    return {
        "nodeAffinity": {preferred: [{"weight": 100, "preference": {"matchFields": [elsewhere]}}]},
        "podAntiAffinity": {preferred: [{"weight": 100, "podAffinityTerm": others}]},
    }


def _counts_leaders(spread: Obj) -> bool:
    """Whether a constraint is the operator's, which counts the pods of the service."""
    return SERVICE in (field(spread, "labelSelector", "matchLabels") or {})


def _worker_command(leader: list[str], rank: int, address: str) -> list[str]:
    own = {_RANK: str(rank), _LEADER: address}
    return [*(own.get(previous, part) for previous, part in pairwise(["", *leader])), "--headless"]


def _labels(template: Obj) -> dict[str, str]:
    labels = field(template, "metadata", "labels") or {}
    kept = {name: value for name, value in labels.items() if not name.startswith(_OF_JOB)}
    return kept | {STAGE: worker_stage(labels[STAGE])}


def _container(template: Obj, name: str) -> Obj | None:
    containers: list[Obj] = field(template, "spec", "initContainers") or []
    return next((container for container in containers if container["name"] == name), None)


def _value(command: list[str], option: str) -> str | None:
    """What follows the option."""
    return next((value for name, value in pairwise(command) if name == option), None)
