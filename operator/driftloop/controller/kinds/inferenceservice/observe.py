"""Read the input for a decision on an InferenceService: caches, and metrics from Prometheus. Writes nothing."""

import asyncio
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import assert_never

from driftloop.api.inferenceservice import ColdStart, InferenceService, InferenceServiceStatus
from driftloop.contract.activity import Activity
from driftloop.contract.reasons import StageReason
from driftloop.contract.topics import TopicsReport
from driftloop.controller.kinds import versions
from driftloop.controller.kinds.groups import PodGroup, groups_of
from driftloop.controller.kinds.inferenceservice.coldstart import cold_start
from driftloop.controller.kinds.inferenceservice.door import door_name
from driftloop.controller.kinds.inferenceservice.idle import Requests
from driftloop.controller.kinds.inferenceservice.observed import (
    Keys,
    Observed,
    Revision,
    parse_job,
    parse_revision,
    parse_version,
)
from driftloop.controller.kinds.inferenceservice.questions import Questions, RequestsQuestion, TopicsQuestion, questions
from driftloop.controller.kinds.inferenceservice.route import canary_name
from driftloop.controller.kinds.inferenceservice.situation import situation_of
from driftloop.controller.kinds.serving_nodes import gpu_memory
from driftloop.controller.pods.common import ENGINE
from driftloop.controller.pods.door import DOOR
from driftloop.controller.pods.group import worker_stage
from driftloop.controller.pods.outcome import Broken, Running, refused_pods, serving_problem, started
from driftloop.controller.pods.serving import SERVE
from driftloop.controller.traffic import Arms, arms, eligible_samples, read_batch, shadow_counts
from driftloop.controller.vocabulary.conditions import is_true
from driftloop.controller.vocabulary.labels import REVISION, SERVICE, STAGE
from driftloop.controller.vocabulary.naming import controlled_by
from driftloop.controller.vocabulary.objects import field, has_ended
from driftloop.controller.vocabulary.plan import Key, Obj
from driftloop.controller.vocabulary.samples import MetricsUnavailable
from driftloop.controller.vocabulary.world import RouteUnknown, World

# A Secret of the user is missing. A restarted proxy reads it, and its engine may run already.
MOST_PODS = 8  # that are asked about their requests at a time
_AWAITED = frozenset({StageReason.NO_CERTIFICATE, StageReason.NO_KEYS})


async def observe(key: Key, world: World) -> Observed | None:
    """Read the service and its objects; None when it is gone. Raises pydantic.ValidationError for its spec.

    Prometheus is queried only for what the decision will use (`questions`).
    """
    service = world.get("InferenceService", key.namespace, key.name)
    if service is None:
        return None
    parsed = InferenceService.model_validate(service)
    uid = service["metadata"]["uid"]
    parsed_versions = [parse_version(v) for v in world.list("ModelVersion", key.namespace) if _follows(parsed, v)]
    jobs = [parse_job(job) for job in world.list("FineTuneJob", key.namespace, {SERVICE: key.name})]
    services = tuple(child for child in world.owned("Service", key.namespace, uid) if controlled_by(child, uid))
    observed = Observed(
        service=service,
        spec=parsed.spec,
        status=parsed.status,
        keys=Keys(secrets.token_hex(32), secrets.token_urlsafe(32)),
        versions=tuple(version for version in parsed_versions if version),
        revisions=tuple(_revisions(service, parsed.status, world)),
        jobs=tuple(job for job in jobs if job),
        services=services,
        door=_door(service, world),
        route=await _route(key, parsed, services, world),
        gpu_memory=await gpu_memory(parsed.spec.engine, parsed.spec.pod_overrides, world),
    )
    return await _with_metrics(observed, questions(situation_of(observed, world.settings, world.now())), world)


def _door(service: Obj, world: World) -> Obj | None:
    """The Deployment of the service's door."""
    meta = service["metadata"]
    owned = _present(world.owned("Deployment", meta["namespace"], meta["uid"]))
    return next((deployment for deployment in owned if deployment["metadata"]["name"] == door_name(service)), None)


async def _route(
    key: Key, service: InferenceService, services: Iterable[Obj], world: World
) -> Obj | RouteUnknown | None:
    """The service's HTTPRoute. An earlier spec may have left one: then the candidate's Service exists, too."""
    has_canary = any(child["metadata"]["name"] == canary_name(key.name) for child in services)
    if service.spec.gateway is None and not has_canary:
        return None
    return await world.routes.route(key.namespace, key.name)


def _follows(service: InferenceService, version: Obj) -> bool:
    return versions.family(version) == service.spec.model.family


def _revisions(service: Obj, status: InferenceServiceStatus, world: World) -> Iterator[Revision]:
    """The service's Deployments. If some pods of one are not available, its revision has their reason."""
    meta = service["metadata"]
    for deployment in world.owned("Deployment", meta["namespace"], meta["uid"]):
        if not controlled_by(deployment, meta["uid"]) or deployment["metadata"].get("deletionTimestamp"):
            continue
        revision = parse_revision(deployment)
        if revision is None:
            continue
        leaders = _pods(revision.revision, service, SERVE, world)
        pods = _present(leaders)
        revision = replace(revision, cold_start=cold_start(pods, _known_start(revision, status)))
        if revision.nodes > 1:
            workers = _pods(revision.revision, service, worker_stage(SERVE), world)
            revision = replace(revision, groups=groups_of(deployment["spec"]["template"], leaders, workers))
        short = revision.available < revision.replicas
        yield _with_problem(revision, deployment, pods) if short else revision


def _known_start(revision: Revision, status: InferenceServiceStatus) -> ColdStart | None:
    known = (entry for entry in (status.stable, status.candidate) if entry and entry.revision == revision.revision)
    return next((entry.cold_start for entry in known), None)


async def _asked(pods: list[Obj], question: TopicsQuestion, world: World) -> TopicsReport | None:
    """The answer of the pod that knows most requests since the change; None if no pod knows enough.

    Each pod gets requests by chance, so one pod's share of a topic is about that of all.
    """
    ready = [pod for pod in pods if is_true(field(pod, "status", "conditions") or [], "Ready")][:MOST_PODS]
    answers = await asyncio.gather(*(_answer(pod, question, world) for pod in ready))
    known = [answer for answer in answers if answer is not None and answer.grown is not None]
    return max(known, key=lambda answer: answer.since, default=None)


async def _requests(service: Obj, question: RequestsQuestion, world: World) -> Requests:
    """What the door says, and the serving pods up to the first one that is not idle: then the others don't matter."""
    meta = service["metadata"]
    doors = [door for door in world.list("Pod", meta["namespace"], {SERVICE: meta["name"], STAGE: DOOR}) if _runs(door)]
    said = dict(zip((door["metadata"]["name"] for door in doors), await _activities(doors, world), strict=True))
    # One that stops may be gone, or on a lost node.
    present = {door["metadata"]["name"] for door in _present(doors)}
    heard = tuple(activity for name, activity in said.items() if activity is not None or name in present)
    pods = _present(_pods(question.revision, service, SERVE, world)) if question.revision else []
    pods = [pod for pod in pods if not has_ended(pod)]
    known: list[Activity | None] = []
    for first in range(0, len(pods), MOST_PODS):
        known += await _activities(pods[first : first + MOST_PODS], world)
        if any(pod is None or pod.running or (pod.idle_seconds or 0) < question.idle_seconds for pod in known):
            break
    return Requests(tuple(known), heard)


def _runs(door: Obj) -> bool:
    """Whether requests may be at a door: not if it has ended (an evicted pod stays), or has no address yet."""
    return not has_ended(door) and bool(field(door, "status", "podIP"))


async def _activities(pods: Iterable[Obj], world: World) -> list[Activity | None]:
    return list(await asyncio.gather(*(_activity(pod, world) for pod in pods)))


async def _activity(pod: Obj, world: World) -> Activity | None:
    try:
        return await world.metrics.activity(pod)
    except MetricsUnavailable:
        return None


async def _answer(pod: Obj, question: TopicsQuestion, world: World) -> TopicsReport | None:
    try:
        return await world.metrics.topics(pod, question.since, question.together)
    except MetricsUnavailable:
        return None


def _pods(revision: str, service: Obj, stage: str, world: World) -> list[Obj]:
    """The revision's pods of a stage."""
    meta = service["metadata"]
    return world.list("Pod", meta["namespace"], {SERVICE: meta["name"], STAGE: stage, REVISION: revision})


def _present(pods: Iterable[Obj]) -> list[Obj]:
    """The objects that are not Terminating."""
    return [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]


def _with_problem(revision: Revision, deployment: Obj, pods: list[Obj]) -> Revision:
    """The revision with the reason why its pods do not serve."""
    waiting = [pod for pod in pods if not is_true(field(pod, "status", "conditions") or [], "Ready")]
    revision = replace(revision, unstarted=not any(_has_started(pod, revision.groups) for pod in waiting))
    workers = _present(worker for group in revision.groups for worker in group.workers)
    match serving_problem([*pods, *workers]) or refused_pods(deployment):
        case None:
            return replace(revision, problem=_incomplete(revision, waiting))
        case Running(reason, message) | Broken(reason, message) if reason in _AWAITED:
            return replace(revision, problem=f"{reason}: {message}", unstarted=True)
        case Running(reason, message):
            return replace(revision, problem=f"{reason}: {message}")
        case Broken(reason, message):
            return replace(revision, problem=f"{reason}: {message}", broken=True)
        case never:
            assert_never(never)


def _has_started(pod: Obj, groups: Iterable[PodGroup]) -> bool:
    """Whether the engine of a pod runs or has run, with those of its workers."""
    group = next((group for group in groups if group.leader is pod), None)
    return group.has_started if group else started(pod, ENGINE)


def _incomplete(revision: Revision, waiting: list[Obj]) -> str:
    """How far the first group is that is not ready, if a replica is a group."""
    unready = (group for group in revision.groups if group.leader in waiting)
    return next((progress for group in unready if (progress := group.progress)), "")


async def _with_metrics(observed: Observed, needed: Questions, world: World) -> Observed:
    """`observed` with the answers of Prometheus; None where it was not asked or has no answer."""
    namespace, name = observed.namespace, observed.name
    if needed.arms:
        pair = (needed.arms.stable, needed.arms.candidate)
        by_revision = await arms(world, namespace, name, pair, needed.arms.since)
        both = Arms(*(by_revision[revision] for revision in pair)) if by_revision else None
        observed = replace(observed, arms=both)
    if needed.shadow:
        pair = (needed.shadow.stable, needed.shadow.candidate)
        counts = await shadow_counts(world, namespace, name, pair, needed.shadow.since)
        observed = replace(observed, shadow_counts=counts)
    if needed.counters:
        version, since, until = needed.counters.version, needed.counters.since, needed.counters.until
        observed = replace(observed, counters=await read_batch(world.metrics, namespace, name, version, since, until))
    if needed.topics:
        pods = _present(_pods(needed.topics.revision, observed.service, SERVE, world))
        observed = replace(observed, topics=await _asked(pods, needed.topics, world))
    if needed.requests:
        observed = replace(observed, requests=await _requests(observed.service, needed.requests, world))
    if needed.samples:
        observed = replace(observed, samples=await eligible_samples(world, namespace, name, needed.samples))
    return observed
