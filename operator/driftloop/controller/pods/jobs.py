"""The Jobs of the stages, and the objects beside them: names, network policies, the Ray token. Pure.

A Job is created once and never changed: Kueue and other controllers own some of its fields, and its template is
immutable. `suspend` is not set for a Job with a queue: Kueue's webhook sets it, and only Kueue removes it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import assert_never

from pydantic import ValidationError

from driftloop.api.base import PodOverrides, Resources
from driftloop.api.evaluation import EvaluationSettings, asked_uris
from driftloop.api.finetunejob import Compute
from driftloop.contract.names import EXIT_BAD_INPUT, JUDGE_KEY_ENV, METRICS_PORT, TASK_ENV
from driftloop.contract.task import AnswerTask, AnyTask, EvaluateTask, PrepareTask, TrainTask, decode
from driftloop.controller.pods.common import (
    LOST_NODE_TOLERATIONS,
    Gpus,
    disk,
    disk_limit,
    mounts_for,
    pod_metadata,
    pod_spec,
    restricted_container,
    scratch,
    scratch_with_shm,
    task_env,
    with_affinity,
)
from driftloop.controller.pods.group import peers
from driftloop.controller.pods.serving import Arm, evaluation_sidecars, serving_volumes
from driftloop.controller.vocabulary.labels import ARM, ATTEMPT, FAMILY, JOB, STAGE, VERSION
from driftloop.controller.vocabulary.naming import child_name, owner_reference
from driftloop.controller.vocabulary.plan import Obj, Settings

PREPARE, TRAIN, EVALUATE = "prepare", "train", "evaluate"  # values of the label STAGE, and names of the containers
CANDIDATE, BASELINE, ANCHOR = "candidate", "baseline", "anchor"  # values of the label ARM
QUEUE = "kueue.x-k8s.io/queue-name"
RAY_PORT = 6379
TOKEN_KEY = "token"  # noqa: S105 - the name of a Secret's key
GRACE_SECONDS = 10
EVALUATE_RETRIES = 2
# The client keeps items, answers and evidence in memory. The limits let a ResourceQuota on limits admit the pod.
CLIENT = Resources(requests={"cpu": "50m", "memory": "128Mi"}, limits={"cpu": "2", "memory": "2Gi"})


@dataclass(frozen=True)
class Placement:
    """The compute, platform overrides and operator settings for the pods of a FineTuneJob."""

    compute: Compute
    overrides: PodOverrides
    settings: Settings


def prepare_name(job: Obj) -> str:
    """Name of the prepare Job."""
    return child_name(job, PREPARE)


def train_name(job: Obj, attempt: int) -> str:
    """Name of the train Job of an attempt."""
    return child_name(job, f"{TRAIN}-{attempt}")


def network_name(job: Obj) -> str:
    """Name of the training pods' headless Service, and of the NetworkPolicy for all pods of the job."""
    return child_name(job, "pods")


def secret_name(job: Obj) -> str:
    """Name of the Secret with the Ray token."""
    return child_name(job, "ray")


def head_name(job: Obj, attempt: int, settings: Settings) -> str:
    """DNS name of the training pod with index 0; it stays the same when the pod moves to another node."""
    namespace = job["metadata"]["namespace"]
    return f"{train_name(job, attempt)}-0.{network_name(job)}.{namespace}.svc.{settings.cluster_domain}"


def prepare_job(job: Obj, task: PrepareTask, placement: Placement, annotations: dict[str, str]) -> Obj:
    """The prepare Job, with one pod. Its task also records the model from which training starts."""
    feedback = [task.feedback.uri] if task.feedback else []
    claims, claim_mounts = mounts_for(
        [task.output], read=[task.model.uri, *task.model.bases, *data_uris(task), *feedback]
    )
    scratches, scratch_mounts = scratch_with_shm()
    disks, disk_mounts = disk()
    container = restricted_container(
        PREPARE,
        placement.settings.trainer_image,
        ["python", "-m", "driftloop_trainer.prepare"],
        settings=placement.settings,
        env=task_env(task),
        resources=placement.compute.resources,
        mounts=[*scratch_mounts, *disk_mounts, *claim_mounts],
        overrides=placement.overrides,
    )
    spec = {
        "backoffLimit": placement.compute.backoff_limit,
        "activeDeadlineSeconds": placement.compute.active_deadline_seconds,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": _failure_policy(),
        "template": _template(job, container, [*scratches, *disks, *claims], placement),
    }
    labels = _labels(job, PREPARE, placement.settings) | _queue(placement.compute.queue_name)
    return _job(_metadata(job, prepare_name(job), labels), annotations, spec)


def train_job(job: Obj, task: TrainTask, placement: Placement, annotations: dict[str, str]) -> Obj:
    """The train Job: an Indexed Job with one pod per node. Index 0 is Ray's head and driver, and the Job ends with it.

    A failed worker is replaced up to the retry limit, and training continues from the last checkpoint. When one index
    has used its retries, the whole Job fails.
    """
    reads = [task.model.uri, *task.model.bases, task.data_uri, task.training.code]
    claims, claim_mounts = mounts_for([task.runs, task.output], read=reads)
    scratches, scratch_mounts = scratch_with_shm()
    compute = placement.compute
    gpus = Gpus(compute.gpu_resource, compute.gpus_per_node, compute.gpu_claim_template)
    disks, disk_mounts = disk()
    container = restricted_container(
        TRAIN,
        task.training.image or placement.settings.trainer_image,
        ["python", "-m", "driftloop_trainer.train"],
        settings=placement.settings,
        # Of two variables with one name the later one counts.
        env=[*(each.rendered() for each in placement.compute.env), *task_env(task), *_ray_env(job), disk_limit()],
        ports={"metrics": METRICS_PORT, "ray": RAY_PORT},
        resources=placement.compute.resources,
        gpus=gpus,
        mounts=[*scratch_mounts, *disk_mounts, *claim_mounts],
        overrides=placement.overrides,
    )
    if task.training.tracking.secret is not None:
        secret = {"secretRef": {"name": task.training.tracking.secret.name}}
        container["envFrom"] = [*container.get("envFrom", []), secret]
    template = _template(job, container, [*scratches, *disks, *claims], placement)
    template["spec"]["terminationGracePeriodSeconds"] = task.grace_period_seconds
    template["spec"]["subdomain"] = network_name(job)
    if gpus.of_pod:
        template["spec"]["resourceClaims"] = gpus.of_pod
    if task.nodes > 1:
        platform = template["spec"].get("affinity", {})
        template["spec"]["affinity"] = with_affinity(platform, _one_per_node(_selector(job, TRAIN)))
    spec = {
        "completionMode": "Indexed",
        "completions": task.nodes,
        "parallelism": task.nodes,
        "backoffLimitPerIndex": placement.compute.backoff_limit,
        "maxFailedIndexes": 0,
        "activeDeadlineSeconds": placement.compute.active_deadline_seconds,
        # A Terminating pod may still write, so its replacement starts only after it has ended.
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": _failure_policy(),
        "successPolicy": {"rules": [{"succeededIndexes": "0"}]},
        "template": template,
    }
    labels = _labels(job, TRAIN, placement.settings) | {ATTEMPT: str(task.attempt)}
    metadata = _metadata(job, train_name(job, task.attempt), labels | _queue(placement.compute.queue_name))
    return _job(metadata, annotations, spec)


def train_service(job: Obj, settings: Settings) -> Obj:
    """The headless Service that gives the training pods DNS names, also while they are not ready.

    The pods need these names to find each other, and become ready only after that.
    """
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(job, network_name(job), _labels(job, TRAIN, settings)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": _selector(job, TRAIN),
            "ports": [{"name": "ray", "port": RAY_PORT, "targetPort": RAY_PORT, "protocol": "TCP"}],
        },
    }


def ray_secret(job: Obj, token: str, settings: Settings) -> Obj:
    """The Secret with the token that every member of the job's Ray cluster must show. The operator never reads it."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _metadata(job, secret_name(job), _labels(job, TRAIN, settings)),
        "immutable": True,
        "type": "Opaque",
        "stringData": {TOKEN_KEY: token},
    }


def job_policy(job: Obj, settings: Settings) -> Obj:
    """The NetworkPolicy of a job: only its own pods can reach its pods, except for the metrics port."""
    own = {JOB: job["metadata"]["name"]}
    ingress: list[Obj] = [
        {"from": [{"podSelector": {"matchLabels": own}}]},
        {"ports": [{"port": METRICS_PORT, "protocol": "TCP"}]},
    ]
    return _policy(_metadata(job, network_name(job), {**settings.labels, **own}), {"matchLabels": own}, ingress)


@dataclass(frozen=True)
class EvaluationRun:
    """How a Job of an evaluation serves one version and asks it the items."""

    arm: Arm  # the containers that serve the version
    evaluation: EvaluationSettings  # queue and deadline
    annotations: dict[str, str]  # recorded on the Job


def answer_name(version: Obj, key: str) -> str:
    """Name of an answer Job; `key` identifies the version that is asked, and the engine."""
    return child_name(version, f"base-{key}")


def evaluate_name(version: Obj, key: str, attempt: int = 1) -> str:
    """Name of the evaluate Job; `key` identifies baseline and engine, because each pair needs a new evaluation."""
    return child_name(version, f"eval-{key}" + (f"-{attempt}" if attempt > 1 else ""))


def answer_job(version: Obj, name: str, task: AnswerTask, run: EvaluationRun, arm: str = BASELINE) -> Obj:
    """An answer Job. Its pod serves the stable version or the anchor, and its client stores the answers."""
    return _evaluation_job(version, name, run, _Client(task, arm, asked_uris(task.suites, task.contract)))


def evaluate_job(version: Obj, name: str, task: EvaluateTask, run: EvaluationRun) -> Obj:
    """The evaluate Job. Its pod serves the version, and its client compares its answers with the stored ones."""
    answers = [compared.answers for compared in (task.baseline, task.anchor) if compared]
    reads = [*answers, *asked_uris(task.suites, task.contract)]
    return _evaluation_job(version, name, run, _Client(task, CANDIDATE, reads))


def evaluate_policy(version: Obj, nodes: int, settings: Settings) -> Obj:
    """The NetworkPolicy of an evaluation: no other pod can reach its pods, or it could answer instead of the model.

    If the engine is spread over `nodes` pods, these reach each other.
    """
    labels = {VERSION: version["metadata"]["name"], STAGE: EVALUATE}
    metadata = _metadata(version, child_name(version, "eval"), {**settings.labels, **labels})
    if nodes == 1:
        return _policy(metadata, {"matchLabels": labels}, [])
    own = peers({VERSION: version["metadata"]["name"]}, EVALUATE)
    return _policy(metadata, own, [{"from": [{"podSelector": own}]}])


def task_of(job: Obj) -> AnyTask | None:
    """The task in a stage's Job, which records what was decided when the Job was created. None if it doesn't parse."""
    for container in job["spec"]["template"]["spec"].get("containers") or []:
        for variable in container.get("env") or []:
            if variable.get("name") == TASK_ENV:
                try:
                    return decode(variable.get("value") or "")
                except ValidationError:
                    return None
    return None


def data_uris(task: PrepareTask) -> list[str]:
    """The URIs of all rows and items that the prepare stage reads."""
    return [*task.data.files, *asked_uris(task.suites, task.contract)]


@dataclass(frozen=True)
class _Client:
    """The container that asks a version the items."""

    task: AnswerTask | EvaluateTask
    arm: str  # value of the label ARM
    reads: Sequence[str | None]  # URIs of the items and of stored answers


def _evaluation_job(version: Obj, name: str, run: EvaluationRun, client: _Client) -> Obj:
    """A Job that serves one version and asks it the items.

    It serves only one version, so that it needs no more GPUs than a serving pod. The serving containers are sidecars,
    so the Job ends when the client ends.
    """
    arm, task, settings = run.arm, client.task, run.arm.settings
    claims, claim_mounts = mounts_for([task.output], read=client.reads)
    scratches, scratch_mounts = scratch()
    container = restricted_container(
        EVALUATE,
        settings.trainer_image,
        ["python", "-m", "driftloop_trainer.evaluate"],
        settings=settings,
        env=[*task_env(task), *_judge_keys(task)],
        resources=CLIENT,
        mounts=[*scratch_mounts, *claim_mounts],
        overrides=arm.overrides,
    )
    pod = pod_spec(
        [container],
        init_containers=evaluation_sidecars(arm),
        volumes=_once(serving_volumes(arm.task) + claims + scratches),
        overrides=arm.overrides,
        restart_policy="Never",
        grace_seconds=GRACE_SECONDS,
        tolerations=LOST_NODE_TOLERATIONS,
        gpus=arm.gpus,
    )
    labels = {VERSION: version["metadata"]["name"], FAMILY: task.family, STAGE: EVALUATE, ARM: client.arm}
    spec = {
        "backoffLimit": EVALUATE_RETRIES,
        "activeDeadlineSeconds": run.evaluation.active_deadline_seconds,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": _failure_policy(),
        "template": {"metadata": pod_metadata(labels, arm.overrides, settings), "spec": pod},
    }
    queue = _queue(run.evaluation.queue_name)
    return _job(_metadata(version, name, {**settings.labels, **labels, **queue}), run.annotations, spec)


def _judge_keys(task: AnswerTask | EvaluateTask) -> list[Obj]:
    """The API keys of judges. Only the evaluation of a candidate asks them."""
    match task:
        case AnswerTask():
            return []
        case EvaluateTask(suites=suites):
            judges = [suite.metric.judge for suite in suites]
            return [
                {"name": JUDGE_KEY_ENV.format(position), "valueFrom": {"secretKeyRef": judge.secret_ref.dump()}}
                for position, judge in enumerate(judges)
                if judge and judge.secret_ref
            ]
        case never:
            assert_never(never)


def _template(job: Obj, container: Obj, volumes: list[Obj], placement: Placement) -> Obj:
    """The pod template of a stage. Its only container has the name of the stage."""
    labels = _labels(job, container["name"], placement.settings)
    return {
        "metadata": pod_metadata(labels, placement.overrides, placement.settings),
        "spec": pod_spec(
            [container],
            volumes=volumes,
            overrides=placement.overrides,
            restart_policy="Never",
            grace_seconds=GRACE_SECONDS,
            tolerations=LOST_NODE_TOLERATIONS,
        ),
    }


def _ray_env(job: Obj) -> list[Obj]:
    """Turn on Ray's token authentication, without which Ray executes any code that it is sent (CVE-2023-48022).

    Ray has it since https://github.com/ray-project/ray/releases/tag/ray-2.52.0, off by default.
    """
    token = {"secretKeyRef": {"name": secret_name(job), "key": TOKEN_KEY}}
    return [{"name": "RAY_AUTH_MODE", "value": "token"}, {"name": "RAY_AUTH_TOKEN", "valueFrom": token}]


def _job(metadata: Obj, annotations: dict[str, str], spec: Obj) -> Obj:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata | {"annotations": annotations},
        "spec": spec,
    }


def _failure_policy() -> Obj:
    """Wrong input fails the Job at once. A disruption does not count as a retry."""
    return {
        "rules": [
            {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [EXIT_BAD_INPUT]}},
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        ]
    }


def _one_per_node(labels: dict[str, str]) -> Obj:
    term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": labels}}
    return {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


def _policy(metadata: Obj, pods: Obj, ingress: list[Obj]) -> Obj:
    """A NetworkPolicy that allows only `ingress` to the selected pods."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata,
        "spec": {"podSelector": pods, "policyTypes": ["Ingress"], "ingress": ingress},
    }


def _selector(job: Obj, stage: str) -> dict[str, str]:
    return {JOB: job["metadata"]["name"], STAGE: stage}


def _labels(job: Obj, stage: str, settings: Settings) -> dict[str, str]:
    return {**settings.labels, **_selector(job, stage), FAMILY: job["spec"]["output"]["family"]}


def _queue(name: str | None) -> dict[str, str]:
    return {QUEUE: name} if name else {}


def _metadata(parent: Obj, name: str, labels: dict[str, str]) -> Obj:
    return {
        "name": name,
        "namespace": parent["metadata"]["namespace"],
        "labels": labels,
        "ownerReferences": [owner_reference(parent)],
    }


def _once(volumes: Iterable[Obj]) -> list[Obj]:
    """Remove duplicates: the client and the serving containers may mount the same claim."""
    return list({volume["name"]: volume for volume in volumes}.values())
