"""What a version has to be compared with: the stable version of the service that follows its family. Pure."""

from dataclasses import dataclass

from pydantic import ValidationError

from driftloop.api.engine import Engine
from driftloop.api.modelversion import Artefact, BaselineStatus, ModelVersionSpec
from driftloop.controller.kinds import versions
from driftloop.controller.kinds.modelversion.observed import Observed
from driftloop.controller.vocabulary.plan import Obj
from driftloop.controller.vocabulary.reasons import Reason


@dataclass(frozen=True)
class Baseline:
    """The stable version."""

    status: BaselineStatus
    artefact: Artefact


@dataclass(frozen=True)
class NoBaseline:
    """There is nothing to compare with, and why."""

    why: str


@dataclass(frozen=True)
class Unknown:
    """Something is served, but what it is can't be read. That is not the same as nothing."""

    reason: Reason
    message: str


def baseline(observed: Observed) -> Baseline | NoBaseline | Unknown:
    """The stable version of the first service, by name, that has one; never the version itself."""
    if not observed.services:
        return NoBaseline(f"no InferenceService follows family {observed.spec.family}")
    for service in observed.services:
        if name := versions.stable_version(service, observed.deployments):
            return _of(observed, service["metadata"]["name"], name)
    return NoBaseline("the family has no stable version yet")


def digest_of(found: Baseline | NoBaseline) -> str | None:
    """Digest of the baseline; None where there is none."""
    return found.status.digest if isinstance(found, Baseline) else None


def is_compared(spec: ModelVersionSpec) -> bool:
    """Whether some suite compares the version with the stable one."""
    return any(suite.kind != "floor" for suite in spec.evaluation.suites)


def is_candidate(observed: Observed) -> bool:
    """Whether the version may still replace the stable one: newer than it, and not tried already.

    The others keep the judgement they have, whatever serves now.
    """
    if versions.at_work(observed.name, observed.deployments):
        return False
    found = baseline(observed)
    if not isinstance(found, Baseline):
        return True
    stable = versions.by_name(observed.versions, found.status.version)
    return stable is None or _age(observed.version) > _age(stable)


def engine_of(observed: Observed) -> Engine:
    """The engine that the spec gives, else the one that will serve: of the family's first service, else the default."""
    if observed.spec.evaluation.engine is not None:
        return observed.spec.evaluation.engine
    for service in observed.services:
        try:
            return Engine.model_validate((service.get("spec") or {}).get("engine") or {})
        except ValidationError:
            continue
    return Engine()


def _of(observed: Observed, service: str, name: str) -> Baseline | NoBaseline | Unknown:
    if name == observed.name:
        return NoBaseline("it is the stable version itself")
    stable = versions.by_name(observed.versions, name)
    try:
        artefact = Artefact.model_validate((stable or {}).get("spec", {}).get("artefact"))
        status = BaselineStatus(version=name, digest=artefact.digest, service=service)
    except ValidationError:
        message = f"InferenceService {service} serves ModelVersion {name}, which does not exist: create it again"
        return Unknown(Reason.BASELINE_NOT_FOUND, message)
    return Baseline(status, artefact)


def _age(version: Obj) -> tuple[str, str]:
    return version["metadata"]["creationTimestamp"], version["metadata"]["name"]
