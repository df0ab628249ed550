"""The facts of one reconcile of a version, each worked out once. Pure.

Observed (what was read)  ->  Against (what the version is compared with)  ->  decide (what to do)
"""

from dataclasses import dataclass
from datetime import datetime
from typing import assert_never

from pydantic import ValidationError

from driftloop.api.engine import Engine
from driftloop.api.modelversion import Artefact, BaselineStatus
from driftloop.controller.kinds import versions
from driftloop.controller.kinds.modelversion.observed import Observed
from driftloop.controller.vocabulary.labels import RETRY
from driftloop.controller.vocabulary.objects import field
from driftloop.controller.vocabulary.plan import Obj, Settings
from driftloop.controller.vocabulary.reasons import Reason


@dataclass(frozen=True)
class Baseline:
    """The stable version."""

    status: BaselineStatus
    artefact: Artefact

    @property
    def digest(self) -> str:
        """Of its artefact."""
        return self.status.digest


@dataclass(frozen=True)
class NoBaseline:
    """There is nothing to compare with, and why."""

    why: str

    @property
    def digest(self) -> None:
        """Of nothing."""
        return None


@dataclass(frozen=True)
class Unknown:
    """Something is served, but what it is can't be read. That is not the same as nothing."""

    reason: Reason
    message: str


@dataclass(frozen=True)
class Against:
    """What a version is compared with, and what follows from that."""

    observed: Observed  # the objects that were read
    settings: Settings  # the operator's
    now: datetime  # the time of this reconcile
    baseline: Baseline | NoBaseline | Unknown  # what it has to be compared with
    engine: Engine  # the engine that both are asked on
    is_candidate: bool  # it may still replace the stable version: it is newer, and was not tried yet
    is_compared: bool  # some suite compares it with the stable version
    wants_retry: bool  # the retry annotation has a value that was not followed yet
    services: tuple[str, ...]  # names of the InferenceServices that have it in use, sorted


def against_of(observed: Observed, settings: Settings, now: datetime) -> Against:
    """What the observed version is compared with."""
    baseline = _baseline(observed)
    return Against(
        observed=observed,
        settings=settings,
        now=now,
        baseline=baseline,
        engine=_engine(observed),
        is_candidate=_is_candidate(observed, baseline),
        is_compared=any(suite.kind != "floor" for suite in observed.spec.evaluation.suites),
        wants_retry=observed.annotations.get(RETRY) not in (None, observed.status.retried),
        services=tuple(versions.services_of(observed.name, observed.deployments)),
    )


def _baseline(observed: Observed) -> Baseline | NoBaseline | Unknown:
    """The stable version of the first service, by name, that has one; never the version itself."""
    if not observed.services:
        return NoBaseline(f"no InferenceService follows family {observed.spec.family}")
    for service in observed.services:
        if name := versions.stable_version(service, observed.deployments):
            return _of(observed, service["metadata"]["name"], name)
    return NoBaseline("the family has no stable version yet")


def _of(observed: Observed, service: str, name: str) -> Baseline | NoBaseline | Unknown:
    if name == observed.name:
        return NoBaseline("it is the stable version itself")
    stable = versions.by_name(observed.versions, name)
    try:
        artefact = Artefact.model_validate(field(stable, "spec", "artefact"))
        status = BaselineStatus(version=name, digest=artefact.digest, service=service)
    except ValidationError:
        message = f"InferenceService {service} serves ModelVersion {name}, which does not exist: create it again"
        return Unknown(Reason.BASELINE_NOT_FOUND, message)
    return Baseline(status, artefact)


def _is_candidate(observed: Observed, baseline: Baseline | NoBaseline | Unknown) -> bool:
    """The others keep the judgement they have, whatever serves now."""
    if versions.at_work(observed.name, observed.deployments):
        return False
    match baseline:
        case Baseline():
            stable = versions.by_name(observed.versions, baseline.status.version)
            return stable is None or _age(observed.version) > _age(stable)
        case NoBaseline() | Unknown():
            return True
        case never:
            assert_never(never)


def _engine(observed: Observed) -> Engine:
    """The engine that the spec gives, else the one that will serve: of the family's first service, else the default."""
    if observed.spec.evaluation.engine is not None:
        return observed.spec.evaluation.engine
    for service in observed.services:
        try:
            return Engine.model_validate(field(service, "spec", "engine") or {})
        except ValidationError:
            continue
    return Engine()


def _age(version: Obj) -> tuple[str, str]:
    return version["metadata"]["creationTimestamp"], version["metadata"]["name"]
