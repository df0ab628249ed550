"""The two revisions of a canary. Pure."""

from dataclasses import dataclass
from datetime import timedelta

from driftloop.api.inferenceservice import ServicePhase
from driftloop.controller.kinds.inferenceservice.observed import Revision
from driftloop.controller.kinds.inferenceservice.rollout.moves import canary_size, scale
from driftloop.controller.kinds.inferenceservice.situation import Situation
from driftloop.controller.vocabulary.plan import Adjust


@dataclass(frozen=True)
class Pair:
    """Both revisions of a canary."""

    situation: Situation  # the facts of this reconcile
    stable: Revision  # the revision that serves
    candidate: Revision  # the revision that is tried beside it

    @property
    def phase(self) -> ServicePhase:
        """The phase of the service while the candidate is tried."""
        return "Shadow" if self.candidate.hidden else "Canary"

    @property
    def replicas(self) -> int:
        """Number of pods in the spec of the service."""
        return self.situation.observed.spec.replicas

    @property
    def size(self) -> int:
        """Number of candidate pods during the analysis."""
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
