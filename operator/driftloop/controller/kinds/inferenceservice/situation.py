"""The facts of one reconcile of a service, each worked out once. Pure.

Observed (what was read)  ->  Situation (what is the case)  ->  rollout, drift, retraining (what to do)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from driftloop.controller.kinds.inferenceservice.observed import Observed, Revision, Version
from driftloop.controller.kinds.inferenceservice.revision import revision_of
from driftloop.controller.vocabulary.labels import RETRY
from driftloop.controller.vocabulary.plan import Settings


@dataclass(frozen=True)
class Situation:
    """What is the case now."""

    observed: Observed  # the objects and figures that were read
    settings: Settings  # the operator's
    now: datetime  # the time of this reconcile
    stable: Revision | None  # the revision that serves
    candidate: Revision | None  # the revision that is tried beside it, or before the first one serves
    serving: Version | None  # the version of `stable`; None also where it was deleted by force
    revisions: Mapping[str, str]  # the revision that each version would have with this spec, by the version's name
    failed: frozenset[str]  # revisions that were rolled back and that nobody asked to try again

    def revision_of(self, version: Version) -> str:
        """The revision that `version`, one of those observed, would have with this spec."""
        return self.revisions[version.name]


def situate(observed: Observed, settings: Settings, now: datetime) -> Situation:
    """The facts of what was observed."""
    stable = observed.role("stable")
    return Situation(
        observed=observed,
        settings=settings,
        now=now,
        stable=stable,
        candidate=observed.role("candidate"),
        serving=observed.version(stable.version) if stable else None,
        revisions={version.name: revision_of(observed, version) for version in observed.versions},
        failed=_failed_revisions(observed),
    )


def _failed_revisions(observed: Observed) -> frozenset[str]:
    """Those in the status or on a Deployment, without the one that the retry annotation names.

    The annotation stays on the object, and the operator never edits what is the user's. So a revision that failed again
    while the annotation named it has used it up: it takes another value, or none in between.
    """
    deployed = {revision.revision: revision for revision in observed.revisions if revision.failed is not None}
    retry = observed.annotations.get(RETRY)
    return frozenset(
        name
        for name in {*observed.status.failed_revisions, *deployed}
        if name != retry or (name in deployed and deployed[name].retried)
    )
