"""The Jobs of the stages and what stands around them: names, policies, the Ray token. Pure.

Jobs are created once and never written again: Kueue and others own fields there, and a Job's template is immutable.
With a queue `suspend` is left out: Kueue's webhook sets it, and only Kueue takes it away.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import ValidationError

from driftloop.api.base import PodOverrides, Resources
from driftloop.api.evaluation import EvaluationSettings
from driftloop.api.finetunejob import Compute
from driftloop.contract.names import EXIT_BAD_INPUT, METRICS_PORT, TASK_ENV
from driftloop.contract.task import AnswerTask, AnyTask, EvaluateTask, PrepareTask, TrainTask, decode
from driftloop.controller.pods.common import (
    LOST_NODE_TOLERATIONS,
    mounts_for,
    pod_metadata,
    pod_spec,
    restricted_container,
    scratch,
    scratch_with_shm,
    task_env,
)
from driftloop.controller.pods.serving import Arm, evaluation_sidecars, serving_volumes
from driftloop.controller.vocabulary.labels import ARM, ATTEMPT, FAMILY, JOB, STAGE, VERSION
from driftloop.controller.vocabulary.naming import child_name, owner_reference
from driftloop.controller.vocabulary.plan import Obj, Settings

PREPARE, TRAIN, EVALUATE = "prepare", "train", "evaluate"  # values of STAGE, and names of the containers
QUEUE = "kueue.x-k8s.io/queue-name"
RAY_PORT = 6379
TOKEN_KEY = "token"  # noqa: S105 - the name of a Secret's key
GRACE_SECONDS = 10
EVALUATE_RETRIES = 2
# Items, answers and evidence lie in its memory. Limits, so that a ResourceQuota on limits admits the pod.
CLIENT = Resources(requests={"cpu": "50m", "memory": "128Mi"}, limits={"cpu": "2", "memory": "2Gi"})


@dataclass(frozen=True)
class Placement:
    """Where and under whose rules the pods of a FineTuneJob run."""

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
    """Name of the headless Service of the training pods, and of the policy about all of the job's pods."""
    return child_name(job, "pods")


def secret_name(job: Obj) -> str:
    """Name of the Secret with the Ray token."""
    return child_name(job, "ray")


def head_name(job: Obj, attempt: int, settings: Settings) -> str:
    """Stable DNS name of the training pod with index 0, whichever node it runs on."""
    namespace = job["metadata"]["namespace"]
    return f"{train_name(job, attempt)}-0.{network_name(job)}.{namespace}.svc.{settings.cluster_domain}"


def prepare_job(job: Obj, task: PrepareTask, placement: Placement, annotations: dict[str, str]) -> Obj:
    """One pod that prepares the data. Its task is the record of the model that training starts from."""
    feedback = [task.feedback.uri] if task.feedback else []
    claims, claim_mounts = mounts_for([task.output], read=[task.model.uri, *data_uris(task), *feedback])
    scratches, scratch_mounts = scratch_with_shm()
    container = restricted_container(
        PREPARE,
        placement.settings.trainer_image,
        ["python", "-m", "driftloop_trainer.prepare"],
        settings=placement.settings,
        env=task_env(task),
        resources=placement.compute.resources,
        mounts=[*scratch_mounts, *claim_mounts],
        overrides=placement.overrides,
    )
    spec = {
        "backoffLimit": placement.compute.backoff_limit,
        "activeDeadlineSeconds": placement.compute.active_deadline_seconds,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": _failure_policy(),
        "template": _template(job, container, [*scratches, *claims], placement),
    }
    labels = _labels(job, PREPARE, placement.settings) | _queue(placement.compute.queue_name)
    return _job(_metadata(job, prepare_name(job), labels), annotations, spec)


def train_job(job: Obj, task: TrainTask, placement: Placement, annotations: dict[str, str]) -> Obj:
    """One Indexed Job, one pod per node; index 0 is Ray's head and driver, and the Job ends with it.

    A worker that fails is replaced up to the limit, and training goes on from the last checkpoint; when one index
    has used its retries the Job fails as a whole.
    """
    claims, claim_mounts = mounts_for([task.runs, task.output], read=[task.model.uri, task.data_uri])
    scratches, scratch_mounts = scratch_with_shm()
    container = restricted_container(
        TRAIN,
        placement.settings.trainer_image,
        ["python", "-m", "driftloop_trainer.train"],
        settings=placement.settings,
        env=[*task_env(task), *_ray_env(job)],
        ports={"metrics": METRICS_PORT, "ray": RAY_PORT},
        resources=placement.compute.resources,
        gpus=placement.compute.gpus_per_node,
        mounts=[*scratch_mounts, *claim_mounts],
        overrides=placement.overrides,
    )
    template = _template(job, container, [*scratches, *claims], placement)
    template["spec"]["subdomain"] = network_name(job)
    if task.nodes > 1:
        template["spec"]["affinity"] = _one_per_node(_selector(job, TRAIN))
    spec = {
        "completionMode": "Indexed",
        "completions": task.nodes,
        "parallelism": task.nodes,
        "backoffLimitPerIndex": placement.compute.backoff_limit,
        "maxFailedIndexes": 0,
        "activeDeadlineSeconds": placement.compute.active_deadline_seconds,
        # A pod that is Terminating may still write; its replacement waits until it is gone.
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": _failure_policy(),
        "successPolicy": {"rules": [{"succeededIndexes": "0"}]},
        "template": template,
    }
    labels = _labels(job, TRAIN, placement.settings) | {ATTEMPT: str(task.attempt)}
    metadata = _metadata(job, train_name(job, task.attempt), labels | _queue(placement.compute.queue_name))
    return _job(metadata, annotations, spec)


def train_service(job: Obj, settings: Settings) -> Obj:
    """Headless: it gives the training pods their names, ready or not, since they look for each other to get ready."""
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
    """The token that Ray asks of every member of this job's cluster. Created, never read."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _metadata(job, secret_name(job), _labels(job, TRAIN, settings)),
        "immutable": True,
        "type": "Opaque",
        "stringData": {TOKEN_KEY: token},
    }


def job_policy(job: Obj, settings: Settings) -> Obj:
    """Nobody but pods of the same job reaches its pods, but for their metrics."""
    own = {JOB: job["metadata"]["name"]}
    ingress: list[Obj] = [
        {"from": [{"podSelector": {"matchLabels": own}}]},
        {"ports": [{"port": METRICS_PORT, "protocol": "TCP"}]},
    ]
    return _policy(_metadata(job, network_name(job), {**settings.labels, **own}), own, ingress)


@dataclass(frozen=True)
class Asking:
    """How one version is asked."""

    arm: Arm  # what serves it
    evaluation: EvaluationSettings  # the queue, and how long it may take
    annotations: dict[str, str]  # what the Job remembers


def answer_name(version: Obj, key: str) -> str:
    """Name of the Job that asks the stable version; `key` stands for that version and the engine."""
    return child_name(version, f"base-{key}")


def evaluate_name(version: Obj, key: str, attempt: int = 1) -> str:
    """Name of the evaluate Job: another baseline or engine is another evaluation, and so is another attempt."""
    return child_name(version, f"eval-{key}" + (f"-{attempt}" if attempt > 1 else ""))


def answer_job(version: Obj, name: str, task: AnswerTask, asking: Asking) -> Obj:
    """One pod: what serves the stable version, and the client that keeps its answers."""
    items = [suite.uri for suite in task.suites]
    return _asking_job(version, name, asking, _Client(task, "baseline", items))


def evaluate_job(version: Obj, name: str, task: EvaluateTask, asking: Asking) -> Obj:
    """One pod: what serves the version, and the client that compares its answers with those of the stable one."""
    answers = task.baseline.answers if task.baseline else None
    items = [suite.uri for suite in task.suites]
    return _asking_job(version, name, asking, _Client(task, "candidate", [answers, *items]))


def evaluate_policy(version: Obj, settings: Settings) -> Obj:
    """Nobody reaches an evaluation's pod: whoever could might answer for the model."""
    labels = {VERSION: version["metadata"]["name"], STAGE: EVALUATE}
    return _policy(_metadata(version, child_name(version, "eval"), {**settings.labels, **labels}), labels, [])


def task_of(job: Obj) -> AnyTask | None:
    """The task that a stage's Job was created with: the record of what was decided then. None if it doesn't parse."""
    for container in job["spec"]["template"]["spec"].get("containers") or []:
        for variable in container.get("env") or []:
            if variable.get("name") == TASK_ENV:
                try:
                    return decode(variable.get("value") or "")
                except ValidationError:
                    return None
    return None


def data_uris(task: PrepareTask) -> list[str]:
    """Every file of rows or items that prepare reads."""
    rows = task.data.files
    return [*rows, *(suite.uri for suite in task.suites if suite.uri)]


@dataclass(frozen=True)
class _Client:
    """What asks a version."""

    task: AnswerTask | EvaluateTask
    arm: str  # value of the label ARM
    reads: list[str | None]  # items, and the answers of the stable version


def _asking_job(version: Obj, name: str, asking: Asking, client: _Client) -> Obj:
    """One version, so that no more GPUs are asked for than a serving pod has. What serves it are sidecars, so the
    client's end is the Job's.
    """
    arm, task, settings = asking.arm, client.task, asking.arm.settings
    claims, claim_mounts = mounts_for([task.output], read=client.reads)
    scratches, scratch_mounts = scratch()
    container = restricted_container(
        EVALUATE,
        settings.trainer_image,
        ["python", "-m", "driftloop_trainer.evaluate"],
        settings=settings,
        env=task_env(task),
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
    )
    labels = {VERSION: version["metadata"]["name"], FAMILY: task.family, STAGE: EVALUATE, ARM: client.arm}
    spec = {
        "backoffLimit": EVALUATE_RETRIES,
        "activeDeadlineSeconds": asking.evaluation.active_deadline_seconds,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": _failure_policy(),
        "template": {"metadata": pod_metadata(labels, arm.overrides, settings), "spec": pod},
    }
    queue = _queue(asking.evaluation.queue_name)
    return _job(_metadata(version, name, {**settings.labels, **labels, **queue}), asking.annotations, spec)


def _template(job: Obj, container: Obj, volumes: list[Obj], placement: Placement) -> Obj:
    """The pods of a stage, which is named like its only container."""
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
    """Every member of Ray's cluster shows the token: without it Ray runs what anybody sends it (CVE-2023-48022)."""
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
    """Wrong input is never tried again, and a disruption is nobody's fault and costs no retry."""
    return {
        "rules": [
            {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [EXIT_BAD_INPUT]}},
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        ]
    }


def _one_per_node(labels: dict[str, str]) -> Obj:
    term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": labels}}
    return {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


def _policy(metadata: Obj, pods: dict[str, str], ingress: list[Obj]) -> Obj:
    """Of all traffic only `ingress` reaches the pods with these labels."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata,
        "spec": {"podSelector": {"matchLabels": pods}, "policyTypes": ["Ingress"], "ingress": ingress},
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
    """Each name once: the client and what serves may mount the same claim."""
    return list({volume["name"]: volume for volume in volumes}.values())
