"""The two revisions of a canary. Pure."""

from dataclasses import dataclass
from datetime import timedelta

from driftloop.api.inferenceservice import ServicePhase
from driftloop.controller.kinds.inferenceservice.observed import Revision
from driftloop.controller.kinds.inferenceservice.questions import PAUSED_SECONDS
from driftloop.controller.kinds.inferenceservice.rollout.moves import POLL_SECONDS, Rollout, canary_size, scale
from driftloop.controller.kinds.inferenceservice.rollout.steps import weighted_size
from driftloop.controller.kinds.inferenceservice.situation import Situation
from driftloop.controller.vocabulary.conditions import shorten
from driftloop.controller.vocabulary.plan import Adjust, Event
from driftloop.controller.vocabulary.reasons import Reason

PAUSES = (Reason.CANARY_PAUSED, Reason.SHADOW_PAUSED, Reason.SHADOW_IMPOSSIBLE)  # why a comparison does not go on now


@dataclass(frozen=True)
class Pair:
    """Both revisions of a canary."""

    situation: Situation  # the facts of this reconcile
    stable: Revision  # the revision that serves
    candidate: Revision  # the revision that is tried beside it

    @property
    def phase(self) -> ServicePhase:
        """The phase of the service while the candidate is tried."""
        return "Shadow" if self.candidate.in_shadow else "Canary"

    @property
    def replicas(self) -> int:
        """Number of pods in the spec of the service."""
        return self.situation.observed.spec.replicas

    @property
    def size(self) -> int:
        """Number of candidate pods during the analysis."""
        if self.candidate.weight is not None and self.situation.observed.spec.gateway:
            return weighted_size(self.situation.observed.spec)
        return canary_size(self.replicas)

    @property
    def deadline(self) -> timedelta:
        """How long a pod may take to be Ready."""
        return timedelta(seconds=self.situation.observed.spec.canary.progress_deadline_seconds)

    def keep_stable(self) -> tuple[Adjust, ...]:
        """Keep stable at its full number of pods."""
        return scale(self.situation, self.stable, self.replicas)

    def keep(self) -> tuple[Adjust, ...]:
        """Keep both revisions at their numbers of pods during the analysis."""
        return (*self.keep_stable(), *scale(self.situation, self.candidate, self.size))


def keep_comparing(pair: Pair, reason: Reason, message: str) -> Rollout:
    """Keep both revisions. If `reason` is a pause, an Event says so once, when the pause begins."""
    paused = reason in PAUSES
    begins = paused and pair.situation.observed.status.phase != "Paused"
    return Rollout(
        "Paused" if paused else pair.phase,
        reason,
        message,
        pair.keep(),
        (Event("Warning", reason, shorten(message, 1000)),) if begins else (),
        pair.candidate,
        requeue_after=PAUSED_SECONDS if paused else POLL_SECONDS,
    )
