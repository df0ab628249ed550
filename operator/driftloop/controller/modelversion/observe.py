"""Read what deciding about a ModelVersion needs, from the caches. Writes nothing."""

from driftloop.api.modelversion import ModelVersion
from driftloop.contract.names import STAGE, VERSION
from driftloop.controller import versions
from driftloop.controller.core import Key
from driftloop.controller.modelversion.observed import Observed
from driftloop.controller.naming import controlled_by, of_a_job_of
from driftloop.controller.pods import jobs
from driftloop.controller.runtime.world import World


async def observe(key: Key, world: World) -> Observed | None:
    """Everything about the version now; None when it is gone. Raises pydantic.ValidationError."""
    version = world.get("ModelVersion", key.namespace, key.name)
    if version is None:
        return None
    parsed = ModelVersion.model_validate(version)
    uid, namespace = version["metadata"]["uid"], key.namespace
    pods = world.list("Pod", namespace, {VERSION: key.name, STAGE: jobs.EVALUATE})
    services = world.list("InferenceService", namespace)
    return Observed(
        version=version,
        spec=parsed.spec,
        status=parsed.status,
        jobs=tuple(job for job in world.owned("Job", namespace, uid) if controlled_by(job, uid)),
        pods=tuple(pod for pod in pods if of_a_job_of(version, pod)),
        services=tuple(service for service in services if versions.follows(service, parsed.spec.family)),
        deployments=tuple(world.list("Deployment", namespace)),
        versions=tuple(world.list("ModelVersion", namespace)),
        claims={claim["metadata"]["name"]: claim for claim in world.list("PersistentVolumeClaim", namespace)},
    )
