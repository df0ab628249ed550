"""A version that no suite judged: it may be trained from, and serves only where a person says so. Pure.

Beside a stable version nobody can say so: nothing was compared with what would be replaced.
"""

from typing import assert_never

from driftloop.api.modelversion import ModelVersionPhase
from driftloop.controller.kinds.modelversion.against import Against, Baseline, NoBaseline, Unknown
from driftloop.controller.kinds.step import Step
from driftloop.controller.vocabulary import conditions
from driftloop.controller.vocabulary.labels import APPROVE_VERSION
from driftloop.controller.vocabulary.reasons import Reason


def unproven(against: Against, summary: str) -> Step[ModelVersionPhase]:
    """Approved by the annotation with the version's own name, where none is stable; else it waits for that."""
    name = against.observed.name
    match against.baseline:
        case NoBaseline() if against.observed.annotations.get(APPROVE_VERSION) == name:
            message = f"{summary}; approved by the annotation {APPROVE_VERSION}"
            return Step("Approved", conditions.ready(Reason.APPROVED, message))
        case NoBaseline():
            way = f"kubectl annotate mver {name} {APPROVE_VERSION}={name} lets a service take it"
        case Baseline(status):
            way = _beside(status.version)
        case Unknown():
            way = _beside("a version that is gone")
        case never:
            assert_never(never)
    message = f"{summary}: it may be trained from; {way}"
    return Step("AwaitingApproval", [conditions.condition("Ready", "False", Reason.AWAITING_APPROVAL, message)])


def _beside(stable: str) -> str:
    return f"beside {stable}, which serves, no service takes it: train a version with suites"
