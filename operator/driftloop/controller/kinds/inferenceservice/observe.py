"""Read what deciding about an InferenceService needs: caches, and figures from Prometheus. Writes nothing."""

import secrets
from dataclasses import replace

from driftloop.api.inferenceservice import InferenceService
from driftloop.controller.kinds import versions
from driftloop.controller.kinds.inferenceservice.observed import (
    Keys,
    Observed,
    Revision,
    parse_job,
    parse_revision,
    parse_version,
)
from driftloop.controller.kinds.inferenceservice.questions import Questions, questions
from driftloop.controller.kinds.inferenceservice.situation import situate
from driftloop.controller.pods.outcome import Broken, refused, started, trouble
from driftloop.controller.pods.serving import ENGINE, SERVE
from driftloop.controller.traffic import Arms, arms, eligible_samples, read_batch
from driftloop.controller.vocabulary.labels import REVISION, SERVICE, STAGE
from driftloop.controller.vocabulary.naming import controlled_by
from driftloop.controller.vocabulary.plan import Key, Obj
from driftloop.controller.vocabulary.world import World


async def observe(key: Key, world: World) -> Observed | None:
    """Everything about the service now; None when it is gone. Raises pydantic.ValidationError for its spec.

    Prometheus is asked only for what this look will use (`questions`).
    """
    service = world.get("InferenceService", key.namespace, key.name)
    if service is None:
        return None
    parsed = InferenceService.model_validate(service)
    uid = service["metadata"]["uid"]
    found = [parse_version(v) for v in world.list("ModelVersion", key.namespace) if _follows(parsed, v)]
    jobs = [parse_job(job) for job in world.list("FineTuneJob", key.namespace, {SERVICE: key.name})]
    observed = Observed(
        service=service,
        spec=parsed.spec,
        status=parsed.status,
        keys=Keys(secrets.token_hex(32), secrets.token_urlsafe(32)),
        versions=tuple(version for version in found if version),
        revisions=tuple(_revisions(service, world)),
        jobs=tuple(job for job in jobs if job),
        services=tuple(child for child in world.owned("Service", key.namespace, uid) if controlled_by(child, uid)),
    )
    return await _answered(observed, questions(situate(observed, world.settings, world.now())), world)


def _follows(service: InferenceService, version: Obj) -> bool:
    return versions.family(version) == service.spec.model.family


def _revisions(service: Obj, world: World) -> list[Revision]:
    """The service's Deployments, each with its pods' own reason where some aren't available."""
    meta, found = service["metadata"], []
    for deployment in world.owned("Deployment", meta["namespace"], meta["uid"]):
        if not controlled_by(deployment, meta["uid"]) or deployment["metadata"].get("deletionTimestamp"):
            continue
        revision = parse_revision(deployment)
        if revision is None:
            continue
        if revision.available < revision.replicas:
            labels = {SERVICE: meta["name"], STAGE: SERVE, REVISION: revision.revision}
            pods = [
                pod
                for pod in world.list("Pod", meta["namespace"], labels)
                if not pod["metadata"].get("deletionTimestamp")
            ]
            revision = replace(revision, unstarted=not any(started(pod, ENGINE) for pod in pods))
            why = trouble(pods) or refused(deployment)
            if why:
                problem = f"{why.reason}: {why.message}"
                revision = replace(revision, problem=problem, hopeless=isinstance(why, Broken))
        found.append(revision)
    return found


async def _answered(observed: Observed, wanted: Questions, world: World) -> Observed:
    """`observed` with what Prometheus says; None where it was not asked or cannot say."""
    namespace, name = observed.namespace, observed.name
    if wanted.arms:
        pair = (wanted.arms.stable, wanted.arms.candidate)
        by_revision = await arms(world, namespace, name, pair, wanted.arms.since)
        both = Arms(*(by_revision[revision] for revision in pair)) if by_revision else None
        observed = replace(observed, arms=both)
    if wanted.counters:
        version, since, until = wanted.counters.version, wanted.counters.since, wanted.counters.until
        observed = replace(observed, counters=await read_batch(world, namespace, name, version, since, until))
    if wanted.samples:
        observed = replace(observed, samples=await eligible_samples(world, namespace, name, wanted.samples))
    return observed
