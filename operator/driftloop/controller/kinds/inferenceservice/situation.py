"""The facts of one reconcile of a service, each computed once. Pure.

Observed (what was read)  ->  Situation (the facts)  ->  rollout, drift, retraining (what to do)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from driftloop.api.inferenceservice import ServingPlan
from driftloop.controller.kinds.engines import resolved
from driftloop.controller.kinds.inferenceservice.observed import Observed, Revision, Version
from driftloop.controller.kinds.inferenceservice.revision import revision_of
from driftloop.controller.kinds.serving_memory import DoesNotFit, memory_plan
from driftloop.controller.vocabulary.labels import RETRY
from driftloop.controller.vocabulary.plan import Settings


@dataclass(frozen=True)
class Situation:
    """The facts of one reconcile of a service."""

    observed: Observed  # the objects and metrics that were read
    settings: Settings  # settings of the operator
    now: datetime  # time of this reconcile
    stable: Revision | None  # the revision that serves
    candidate: Revision | None  # the revision that is tried beside it, or that will be the first to serve
    serving: Version | None  # the version of `stable`; None also if that version was deleted by force
    revisions: Mapping[str, str]  # name of a version -> the revision that it has with the current spec
    failed: frozenset[str]  # revisions that were rolled back, without one whose retry is requested
    memory: Mapping[str, ServingPlan | DoesNotFit | None]  # name of a version -> whether the GPUs of a pod can hold it

    @property
    def only(self) -> str | None:
        """The stable revision, while pods of a hidden one exist or may exist: the Service selects it alone.

        If it has no ready pod, a candidate that has users already gets all of them.
        """
        others = (revision for revision in self.observed.revisions if revision.hidden and revision != self.stable)
        if self.stable is None or not any(r.pods or r.replicas for r in others):
            return None
        candidate = self.candidate
        alone = candidate is not None and candidate.available > 0 and candidate.has_users
        return None if alone and self.stable.available == 0 else self.stable.revision

    def revision_of(self, version: Version) -> str:
        """The revision that an observed version has with the current spec."""
        return self.revisions[version.name]


def situation_of(observed: Observed, settings: Settings, now: datetime) -> Situation:
    """Compute the facts from the observed objects."""
    stable = observed.role("stable")
    return Situation(
        observed=observed,
        settings=settings,
        now=now,
        stable=stable,
        candidate=observed.role("candidate"),
        serving=observed.version(stable.version) if stable else None,
        revisions={version.name: revision_of(observed, version, settings) for version in observed.versions},
        failed=_failed_revisions(observed),
        memory=_memory(observed, settings),
    )


def _memory(observed: Observed, settings: Settings) -> dict[str, ServingPlan | DoesNotFit | None]:
    engine = resolved(observed.spec.engine, settings)
    return {version.name: memory_plan(engine, version.model, observed.gpu_memory) for version in observed.versions}


def _failed_revisions(observed: Observed) -> frozenset[str]:
    """The failed revisions in the status and on Deployments, without the one that the retry annotation names.

    The operator does not remove the annotation, because it belongs to the user. If the revision fails again while the
    annotation names it, the annotation has no further effect until the user removes or changes it.
    """
    deployed = {revision.revision: revision for revision in observed.revisions if revision.failed is not None}
    retry = observed.annotations.get(RETRY)
    return frozenset(
        name
        for name in {*observed.status.failed_revisions, *deployed}
        if name != retry or (name in deployed and deployed[name].retried)
    )
