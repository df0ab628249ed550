"""Read the input for a decision on a FineTuneJob: caches, and the metrics of the training pod. Writes nothing."""

import secrets
from dataclasses import replace
from datetime import datetime

from driftloop.api.base import NVIDIA_GPU
from driftloop.api.finetunejob import FineTuneJob, FineTuneJobSpec, FineTuneJobStatus, Progress
from driftloop.contract.names import METRICS_PORT
from driftloop.controller.kinds.finetunejob import progress
from driftloop.controller.kinds.finetunejob.observed import Observed
from driftloop.controller.pods.jobs import PREPARE, TRAIN
from driftloop.controller.vocabulary.conditions import parse_timestamp
from driftloop.controller.vocabulary.labels import INDEX, JOB, STAGE
from driftloop.controller.vocabulary.naming import controlled_by, is_stage_pod, version_name
from driftloop.controller.vocabulary.objects import field, labels, phase
from driftloop.controller.vocabulary.plan import Key, Obj
from driftloop.controller.vocabulary.samples import MetricsUnavailable
from driftloop.controller.vocabulary.world import World


async def observe(key: Key, world: World) -> Observed | None:
    """Read the job and its objects; None when the job is gone. Raises pydantic.ValidationError.

    Once a job has a Job, only its own Jobs and pods are read: whole collections are slow with thousands of jobs.
    """
    job = world.get("FineTuneJob", key.namespace, key.name)
    if job is None:
        return None
    parsed = FineTuneJob.model_validate(job)
    uid, namespace = job["metadata"]["uid"], key.namespace
    children = [child for child in world.owned("Job", namespace, uid) if controlled_by(child, uid)]
    pods = _pods(job, parsed.status, children, world)
    version = world.get("ModelVersion", namespace, version_name(parsed.spec.output.family, uid))
    observed = Observed(
        job=job,
        spec=parsed.spec,
        status=parsed.status,
        jobs=tuple(children),
        pods=tuple(pods),
        version=version if version and _was_created_by(version, uid) else None,
        gpu_memory=await _gpu_memory(parsed.spec, children, world),
        progress=await _progress(parsed.status, children, pods, world),
        fresh_secret=secrets.token_urlsafe(32),
    )
    return observed if children else _with_start(observed, world)


def _with_start(observed: Observed, world: World) -> Observed:
    """Add the objects that must exist before the first Job is created."""
    namespace, source = observed.namespace, observed.spec.model.from_
    serving = world.get("InferenceService", namespace, source.serving.name) if source.serving else None
    feedback, resumed = observed.spec.data.feedback, observed.spec.resume_from
    return replace(
        observed,
        versions=tuple(world.list("ModelVersion", namespace)),
        claims={claim["metadata"]["name"]: claim for claim in world.list("PersistentVolumeClaim", namespace)},
        serving=serving,
        serving_deployments=tuple(world.list("Deployment", namespace)) if serving else (),
        feedback=world.get("InferenceService", namespace, feedback.service) if feedback else None,
        resumed=world.get("FineTuneJob", namespace, resumed) if resumed else None,
    )


async def _gpu_memory(spec: FineTuneJobSpec, children: list[Obj], world: World) -> tuple[int, ...]:
    """Bytes per GPU on the nodes, read only if a plan is due and the spec does not give the GPU memory."""
    stages = {labels(child).get(STAGE) for child in children}
    compute = spec.compute
    if not compute.gpus_per_node or compute.gpu_memory is not None or stages != {PREPARE}:
        return ()
    if compute.gpu_resource != NVIDIA_GPU:
        return ()  # the label is about whole GPUs of NVIDIA
    return await world.nodes.gpu_memory(spec.pod_overrides.node_selector)


def _pods(job: Obj, status: FineTuneJobStatus, children: list[Obj], world: World) -> list[Obj]:
    """The pods of the job's Jobs; between two attempts also the pods of a deleted Job."""
    namespace = job["metadata"]["namespace"]
    if status.attempt and not any(labels(child).get(STAGE) == TRAIN for child in children):
        labelled = world.list("Pod", namespace, {JOB: job["metadata"]["name"]})
        return [pod for pod in labelled if is_stage_pod(job, pod)]
    return [pod for child in children for pod in world.owned("Pod", namespace, child["metadata"]["uid"])]


async def _progress(status: FineTuneJobStatus, children: list[Obj], pods: list[Obj], world: World) -> Progress | None:
    """The progress that the running pod with index 0 reports; None if it reports none or was asked recently."""
    now = world.now()
    if not _due(status.progress, now):
        return None
    for pod in pods:
        running = phase(pod) == "Running" and not pod["metadata"].get("deletionTimestamp")
        owned = any(controlled_by(pod, job["metadata"]["uid"]) for job in children)
        if running and owned and labels(pod).get(INDEX) == "0":
            return await _scrape(pod, world, now)
    return None


async def _scrape(pod: Obj, world: World, now: datetime) -> Progress | None:
    try:
        samples = await world.metrics.scrape(pod, METRICS_PORT)
    except MetricsUnavailable:
        return None  # progress is only information for people
    return progress.read(samples, now)


def _due(last: Progress | None, now: datetime) -> bool:
    return last is None or last.updated is None or now - parse_timestamp(last.updated) >= progress.READ_EVERY


def _was_created_by(version: Obj, uid: str) -> bool:
    return bool(field(version, "spec", "lineage", "jobUid") == uid)
