"""The Jobs of the stages and what stands around them: names, policies, the Ray token. Pure.

Jobs are created once and never written again: Kueue and others own fields there, and a Job's template is immutable.
With a queue `suspend` is left out: Kueue's webhook sets it, and only Kueue takes it away.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import ValidationError

from driftloop.api.base import PodOverrides, Resources
from driftloop.api.engine import Engine
from driftloop.api.evaluation import EvaluationSettings
from driftloop.api.finetunejob import Compute
from driftloop.contract.names import EXIT_BAD_INPUT, METRICS_PORT, TASK_ENV
from driftloop.contract.task import AnswerTask, AnyTask, EvaluateTask, PrepareTask, ServeTask, TrainTask, decode
from driftloop.controller.pods.common import (
    LOST_NODE_TOLERATIONS,
    mounts_for,
    pod_metadata,
    pod_spec,
    restricted_container,
    scratch,
    task_env,
)
from driftloop.controller.pods.serving import serving_containers, serving_volumes
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
    claims = mounts_for([task.output], read=[task.model.uri, *data_uris(task), *feedback])
    template = _stage_template(job, task, placement, PREPARE, claims)
    spec = {
        "backoffLimit": placement.compute.backoff_limit,
        "activeDeadlineSeconds": placement.compute.active_deadline_seconds,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": _failure_policy(),
        "template": template,
    }
    return _job(job, prepare_name(job), PREPARE, spec, placement, annotations=annotations)


def train_job(job: Obj, task: TrainTask, placement: Placement, annotations: dict[str, str]) -> Obj:
    """One Indexed Job, one pod per node; index 0 is Ray's head and driver, and the Job ends with it.

    A worker that fails is replaced up to the limit, and training goes on from the last checkpoint; when one index
    has used its retries the Job fails as a whole.
    """
    claims = mounts_for([task.runs, task.output], read=[task.model.uri, task.data_uri])
    template = _stage_template(job, task, placement, TRAIN, claims)
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
    return _job(
        job,
        train_name(job, task.attempt),
        TRAIN,
        spec,
        placement,
        labels={ATTEMPT: str(task.attempt)},
        annotations=annotations,
    )


def train_service(job: Obj, settings: Settings) -> Obj:
    """Headless: it gives the training pods their names, ready or not, since they look for each other to get ready."""
    return _namespaced("v1", "Service", job, network_name(job), _labels(job, TRAIN, settings)) | {
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": _selector(job, TRAIN),
            "ports": [{"name": "ray", "port": RAY_PORT, "targetPort": RAY_PORT, "protocol": "TCP"}],
        }
    }


def ray_secret(job: Obj, token: str, settings: Settings) -> Obj:
    """The token that Ray asks of every member of this job's cluster. Created, never read."""
    body = _namespaced("v1", "Secret", job, secret_name(job), _labels(job, TRAIN, settings))
    return body | {"immutable": True, "type": "Opaque", "stringData": {TOKEN_KEY: token}}


def job_policy(job: Obj, settings: Settings) -> Obj:
    """Nobody but pods of the same job reaches its pods, but for their metrics."""
    own = {JOB: job["metadata"]["name"]}
    ingress: list[Obj] = [
        {"from": [{"podSelector": {"matchLabels": own}}]},
        {"ports": [{"port": METRICS_PORT, "protocol": "TCP"}]},
    ]
    body = _namespaced("networking.k8s.io/v1", "NetworkPolicy", job, network_name(job), {**settings.labels, **own})
    return body | {"spec": _ingress_only(own, ingress)}


@dataclass(frozen=True)
class Asking:
    """How a served model is asked: what serves it, and what the pods of both are allowed."""

    arm: ServeTask
    engine: Engine
    evaluation: EvaluationSettings
    overrides: PodOverrides
    settings: Settings


def answer_name(version: Obj, key: str) -> str:
    """Name of the Job that asks the stable version; `key` stands for that version and the engine."""
    return child_name(version, f"base-{key}")


def evaluate_name(version: Obj, key: str, attempt: int = 1) -> str:
    """Name of the evaluate Job: another baseline or engine is another evaluation, and so is another attempt."""
    return child_name(version, f"eval-{key}" + (f"-{attempt}" if attempt > 1 else ""))


def evaluate_job(
    version: Obj, name: str, task: AnswerTask | EvaluateTask, asking: Asking, annotations: dict[str, str]
) -> Obj:
    """One pod: what serves one version, and the client that asks it.

    One version, so that no more GPUs are asked for than a serving pod has. What serves it are sidecars, so the client's
    end is the Job's.
    """
    arm, settings, overrides = asking.arm, asking.settings, asking.overrides
    init, _ = serving_containers(
        arm, image=settings.server_image, engine=asking.engine, settings=settings, overrides=overrides, as_sidecars=True
    )
    answers = task.baseline.answers if isinstance(task, EvaluateTask) and task.baseline else None
    claims, claim_mounts = mounts_for([task.output], read=[answers, *(suite.uri for suite in task.suites)])
    scratches, scratch_mounts = scratch()
    client = restricted_container(
        EVALUATE,
        settings.trainer_image,
        ["python", "-m", "driftloop_trainer.evaluate"],
        settings=settings,
        env=task_env(task),
        resources=CLIENT,
        mounts=[*scratch_mounts, *claim_mounts],
        overrides=overrides,
    )
    spec = pod_spec(
        [client],
        init_containers=init,
        volumes=_once(serving_volumes(arm) + claims + scratches),
        overrides=overrides,
        restart_policy="Never",
        grace_seconds=GRACE_SECONDS,
        tolerations=LOST_NODE_TOLERATIONS,
    )
    labels = {VERSION: version["metadata"]["name"], FAMILY: task.family, STAGE: EVALUATE}
    labels[ARM] = "baseline" if isinstance(task, AnswerTask) else "candidate"
    queue = {QUEUE: asking.evaluation.queue_name} if asking.evaluation.queue_name else {}
    body = _namespaced("batch/v1", "Job", version, name, {**settings.labels, **labels, **queue})
    body["metadata"]["annotations"] = annotations
    return body | {
        "spec": {
            "backoffLimit": EVALUATE_RETRIES,
            "activeDeadlineSeconds": asking.evaluation.active_deadline_seconds,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": _failure_policy(),
            "template": {"metadata": pod_metadata(labels, overrides, settings), "spec": spec},
        }
    }


def evaluate_policy(version: Obj, settings: Settings) -> Obj:
    """Nobody reaches an evaluation's pod: whoever could might answer for the model."""
    labels = {VERSION: version["metadata"]["name"], STAGE: EVALUATE}
    body = _namespaced(
        "networking.k8s.io/v1", "NetworkPolicy", version, child_name(version, "eval"), {**settings.labels, **labels}
    )
    return body | {"spec": _ingress_only(labels, [])}


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


def _stage_template(
    job: Obj,
    task: PrepareTask | TrainTask,
    placement: Placement,
    stage: str,
    claims: tuple[list[Obj], list[Obj]],
) -> Obj:
    training = isinstance(task, TrainTask)
    volumes, mounts = scratch(shm=True)
    container = restricted_container(
        stage,
        placement.settings.trainer_image,
        ["python", "-m", f"driftloop_trainer.{stage}"],
        settings=placement.settings,
        env=[*task_env(task), *(_ray_env(job) if training else [])],
        ports={"metrics": METRICS_PORT, "ray": RAY_PORT} if training else None,
        resources=placement.compute.resources,
        gpus=placement.compute.gpus_per_node if training else 0,
        mounts=[*mounts, *claims[1]],
        overrides=placement.overrides,
    )
    return {
        "metadata": pod_metadata(_labels(job, stage, placement.settings), placement.overrides, placement.settings),
        "spec": pod_spec(
            [container],
            volumes=[*volumes, *claims[0]],
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


def _job(
    parent: Obj,
    name: str,
    stage: str,
    spec: Obj,
    placement: Placement,
    *,
    annotations: dict[str, str],
    labels: dict[str, str] | None = None,
) -> Obj:
    queue = {QUEUE: placement.compute.queue_name} if placement.compute.queue_name else {}
    body = _namespaced(
        "batch/v1", "Job", parent, name, {**_labels(parent, stage, placement.settings), **(labels or {}), **queue}
    )
    body["metadata"]["annotations"] = annotations
    return body | {"spec": spec}


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


def _ingress_only(labels: dict[str, str], ingress: list[Obj]) -> Obj:
    return {"podSelector": {"matchLabels": labels}, "policyTypes": ["Ingress"], "ingress": ingress}


def _selector(job: Obj, stage: str) -> dict[str, str]:
    return {JOB: job["metadata"]["name"], STAGE: stage}


def _labels(job: Obj, stage: str, settings: Settings) -> dict[str, str]:
    return {**settings.labels, **_selector(job, stage), FAMILY: job["spec"]["output"]["family"]}


def _namespaced(api_version: str, kind: str, parent: Obj, name: str, labels: dict[str, str]) -> Obj:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": parent["metadata"]["namespace"],
            "labels": labels,
            "ownerReferences": [owner_reference(parent)],
        },
    }


def _once(volumes: Iterable[Obj]) -> list[Obj]:
    """Each name once: the client and what serves may mount the same claim."""
    return list({volume["name"]: volume for volume in volumes}.values())
