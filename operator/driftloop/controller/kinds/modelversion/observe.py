"""Read the input for a decision on a ModelVersion from the caches. Writes nothing."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from driftloop.api.modelversion import JUDGED, ModelVersion
from driftloop.controller.kinds.groups import PodGroup, groups_of
from driftloop.controller.kinds.modelversion.comparison import comparison_of
from driftloop.controller.kinds.modelversion.observed import Observed
from driftloop.controller.kinds.serving_nodes import gpu_memory
from driftloop.controller.kinds.versions import at_work, bases, follows, stable_version
from driftloop.controller.pods.group import nodes_of, worker_stage
from driftloop.controller.pods.jobs import EVALUATE
from driftloop.controller.vocabulary.labels import STAGE, VERSION
from driftloop.controller.vocabulary.naming import controlled_by
from driftloop.controller.vocabulary.objects import labels
from driftloop.controller.vocabulary.plan import Key, Obj
from driftloop.controller.vocabulary.world import World


async def observe(key: Key, world: World) -> Observed | None:
    """Read the version and its objects; None when it is gone. Raises pydantic.ValidationError."""
    version = world.get("ModelVersion", key.namespace, key.name)
    if version is None:
        return None
    parsed = ModelVersion.model_validate(version)
    uid, namespace = version["metadata"]["uid"], key.namespace
    children = [job for job in world.owned("Job", namespace, uid) if controlled_by(job, uid)]
    services = world.list("InferenceService", namespace)
    observed = Observed(
        version=version,
        spec=parsed.spec,
        status=parsed.status,
        jobs=tuple(children),
        pods=tuple(pod for job in children for pod in world.owned("Pod", namespace, job["metadata"]["uid"])),
        groups=tuple(group for job in children for group in _groups(job, version, world)),
        services=tuple(service for service in services if follows(service, parsed.spec.family)),
        deployments=(deployments := tuple(world.list("Deployment", namespace))),
        adapters=tuple(_adapters(deployments, namespace, world)),
        claims={claim["metadata"]["name"]: claim for claim in world.list("PersistentVolumeClaim", namespace)},
    )
    observed = replace(observed, versions=tuple(_versions(observed, world)))
    return replace(observed, gpu_memory=await _gpu_memory(observed, world))


def _groups(job: Obj, version: Obj, world: World) -> tuple[PodGroup, ...]:
    meta, template = version["metadata"], job["spec"]["template"]
    if nodes_of(template) == 1:
        return ()
    leaders = world.owned("Pod", meta["namespace"], job["metadata"]["uid"])
    workers = world.list("Pod", meta["namespace"], {VERSION: meta["name"], STAGE: worker_stage(EVALUATE)})
    return groups_of(template, leaders, workers)


def _adapters(deployments: Iterable[Obj], namespace: str, world: World) -> Iterator[Obj]:
    for name in sorted({name for deployment in deployments if (name := labels(deployment).get(VERSION))}):
        version = world.get("ModelVersion", namespace, name)
        if version is not None and bases(version):
            yield version


async def _gpu_memory(observed: Observed, world: World) -> tuple[int, ...]:
    """Bytes per GPU on the nodes, read only if an evaluation with GPUs may be due."""
    if observed.status.phase in JUDGED or observed.spec.model is None:
        return ()
    engine = comparison_of(observed, world.settings, world.now()).engine
    return await gpu_memory(engine, observed.spec.pod_overrides, world)


def _versions(observed: Observed, world: World) -> list[Obj]:
    """All ModelVersions while this one may be evaluated, to count the looks at its items; then only the stable ones."""
    namespace = observed.namespace
    if observed.status.phase not in JUDGED or observed.wants_retry:
        return world.list("ModelVersion", namespace)
    names = {name for service in observed.services if (name := stable_version(service, observed.deployments))}
    serving = (world.get("ModelVersion", namespace, name) for name in sorted(names))
    stable = [version for version in serving if version is not None]
    return world.list("ModelVersion", namespace) if _may_be_evaluated_again(observed, stable) else stable


def _may_be_evaluated_again(observed: Observed, stable: list[Obj]) -> bool:
    """Whether a judged version may still become stable, so that another stable version makes it compare again."""
    if observed.status.phase == "Rejected" or at_work(observed.name, observed.deployments):
        return False
    return any(_created(version) <= _created(observed.version) for version in stable) or not stable


def _created(version: Obj) -> str:
    return str(version["metadata"]["creationTimestamp"])
