"""The facts of one reconcile of a version, each computed once. Pure.

Observed (what was read)  ->  Comparison (what the version is compared with)  ->  decide (what to do)
"""

from dataclasses import dataclass
from datetime import datetime
from typing import assert_never

from pydantic import ValidationError

from driftloop.api.engine import Engine
from driftloop.api.modelversion import BaselineStatus, ModelArtefact, VersionEvaluation
from driftloop.controller.kinds import versions
from driftloop.controller.kinds.engines import resolved
from driftloop.controller.kinds.modelversion.observed import Observed
from driftloop.controller.vocabulary.objects import field
from driftloop.controller.vocabulary.plan import Obj, Settings
from driftloop.controller.vocabulary.reasons import Reason


@dataclass(frozen=True)
class Baseline:
    """The stable version, with which the version is compared."""

    status: BaselineStatus  # what the version's status says about it
    artefact: ModelArtefact  # its model, which an answering pod loads

    @property
    def digest(self) -> str:
        """Digest of the stable version's artefact."""
        return self.status.digest


@dataclass(frozen=True)
class NoBaseline:
    """There is no version to compare with."""

    why: str  # in words, for the verdict of a paired suite

    @property
    def digest(self) -> None:
        """No digest, so that it differs from every Baseline's."""
        return None


@dataclass(frozen=True)
class Unknown:
    """A service serves a version that can't be read. That is different from NoBaseline."""

    reason: Reason  # why it can't be read
    message: str  # the same in words, with the service's name


@dataclass(frozen=True)
class Comparison:
    """What a version is compared with, and the facts that follow from it."""

    observed: Observed  # the objects that were read
    settings: Settings  # settings of the operator
    now: datetime  # time of this reconcile
    baseline: Baseline | NoBaseline | Unknown  # what the version has to be compared with
    engine: Engine  # runs both versions in the evaluation, resolved
    is_candidate: bool  # whether it may still replace the stable version: it is newer, and no service has it yet
    is_compared: bool  # whether a suite compares it with the stable version
    wants_retry: bool  # whether the retry annotation has a new value
    services: tuple[str, ...]  # names of the InferenceServices that use it, sorted


def comparison_of(observed: Observed, settings: Settings, now: datetime) -> Comparison:
    """Find out what the observed version is compared with."""
    baseline = _baseline(observed)
    return Comparison(
        observed=observed,
        settings=settings,
        now=now,
        baseline=baseline,
        engine=resolved(_engine(observed, baseline), settings),
        is_candidate=_is_candidate(observed, baseline),
        is_compared=is_compared(observed.spec.evaluation),
        wants_retry=observed.wants_retry,
        services=tuple(versions.services_of(observed.name, observed.deployments)),
    )


def is_compared(evaluation: VersionEvaluation) -> bool:
    """Whether something is compared with what the stable version answers."""
    return evaluation.contract is not None or any(suite.kind != "floor" for suite in evaluation.suites)


def _pins(service: Obj) -> bool:
    """Whether the service serves a fixed version, so that it takes no other one by itself."""
    return field(service, "spec", "model", "version") is not None


def _baseline(observed: Observed) -> Baseline | NoBaseline | Unknown:
    """The newest stable version of the family's services. Those that pin a version count only if all of them do."""
    if not observed.services:
        return NoBaseline(f"no InferenceService follows family {observed.spec.family}")
    stable = [(s, name) for s in observed.services if (name := versions.stable_version(s, observed.deployments))]
    if not stable:
        return NoBaseline("the family has no stable version yet")
    ages = {version["metadata"]["name"]: _age(version) for version in observed.versions}
    follows_newest = [(service, name) for service, name in stable if not _pins(service)]
    service, name = max(follows_newest or stable, key=lambda pair: ages.get(pair[1], ("", "")))
    return _baseline_named(observed, service["metadata"]["name"], name)


def _baseline_named(observed: Observed, service: str, name: str) -> Baseline | NoBaseline | Unknown:
    if name == observed.name:
        return NoBaseline("it is the stable version itself")
    stable = versions.by_name(observed.versions, name)
    try:
        artefact = ModelArtefact.model_validate(field(stable, "spec", "artefact"))
        status = BaselineStatus(version=name, digest=artefact.digest, service=service)
    except ValidationError:
        message = f"InferenceService {service} serves ModelVersion {name}, which does not exist: create it again"
        return Unknown(Reason.BASELINE_NOT_FOUND, message)
    return Baseline(status, artefact)


def _is_candidate(observed: Observed, baseline: Baseline | NoBaseline | Unknown) -> bool:
    """Whether the version may still replace the stable one. Other versions keep their judgement."""
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


def _engine(observed: Observed, baseline: Baseline | NoBaseline | Unknown) -> Engine:
    """The engine in the version's spec, else that of the baseline's service, else of the first that pins nothing."""
    if observed.spec.evaluation.engine is not None:
        return observed.spec.evaluation.engine
    serving = _service(baseline)
    for service in sorted(observed.services, key=lambda s: (s["metadata"]["name"] != serving, _pins(s))):
        try:
            return Engine.model_validate(field(service, "spec", "engine") or {})
        except ValidationError:
            continue
    return Engine()


def _service(baseline: Baseline | NoBaseline | Unknown) -> str | None:
    """The name of the service whose stable version is the baseline."""
    match baseline:
        case Baseline(status=status):
            return status.service
        case NoBaseline() | Unknown():
            return None
        case never:
            assert_never(never)


def _age(version: Obj) -> tuple[str, str]:
    return version["metadata"]["creationTimestamp"], version["metadata"]["name"]
