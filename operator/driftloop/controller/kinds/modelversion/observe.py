"""Read what deciding about a ModelVersion needs, from the caches. Writes nothing."""

from driftloop.api.modelversion import ModelVersion, ModelVersionStatus
from driftloop.controller.kinds.modelversion.observed import JUDGED, Observed
from driftloop.controller.kinds.versions import follows, stable_version
from driftloop.controller.vocabulary.naming import controlled_by
from driftloop.controller.vocabulary.plan import Key, Obj
from driftloop.controller.vocabulary.world import World


async def observe(key: Key, world: World) -> Observed | None:
    """Everything about the version now; None when it is gone. Raises pydantic.ValidationError."""
    version = world.get("ModelVersion", key.namespace, key.name)
    if version is None:
        return None
    parsed = ModelVersion.model_validate(version)
    uid, namespace = version["metadata"]["uid"], key.namespace
    children = [job for job in world.owned("Job", namespace, uid) if controlled_by(job, uid)]
    services = [found for found in world.list("InferenceService", namespace) if follows(found, parsed.spec.family)]
    deployments = world.list("Deployment", namespace)
    return Observed(
        version=version,
        spec=parsed.spec,
        status=parsed.status,
        jobs=tuple(children),
        pods=tuple(pod for job in children for pod in world.owned("Pod", namespace, job["metadata"]["uid"])),
        services=tuple(services),
        deployments=tuple(deployments),
        versions=tuple(_versions(parsed.status, services, deployments, namespace, world)),
        claims={claim["metadata"]["name"]: claim for claim in world.list("PersistentVolumeClaim", namespace)},
    )


def _versions(
    status: ModelVersionStatus, services: list[Obj], deployments: list[Obj], namespace: str, world: World
) -> list[Obj]:
    """All of them while this one is to be judged, to count uses of its items; then only what it is compared with."""
    if status.phase not in JUDGED:
        return world.list("ModelVersion", namespace)
    stable = {name for service in services if (name := stable_version(service, deployments))}
    found = (world.get("ModelVersion", namespace, name) for name in sorted(stable))
    return [version for version in found if version is not None]
