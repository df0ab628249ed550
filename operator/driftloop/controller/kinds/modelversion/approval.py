"""A version that no suite judged: it may be trained from, and it serves only if a person approves it. Pure.

While a stable version serves, it can't be approved, because it was not compared with the version that it would replace.
"""

from typing import assert_never

from driftloop.api.modelversion import ModelVersionPhase
from driftloop.controller.kinds.modelversion.comparison import Baseline, Comparison, NoBaseline, Unknown
from driftloop.controller.kinds.step import Step
from driftloop.controller.vocabulary import conditions
from driftloop.controller.vocabulary.labels import APPROVE_VERSION
from driftloop.controller.vocabulary.reasons import Reason


def unproven(comparison: Comparison, summary: str) -> Step[ModelVersionPhase]:
    """Approved if no version is stable and the annotation has the version's own name; else it awaits approval."""
    name = comparison.observed.name
    match comparison.baseline:
        case NoBaseline() if comparison.observed.annotations.get(APPROVE_VERSION) == name:
            message = f"{summary}; approved by the annotation {APPROVE_VERSION}"
            return Step("Approved", conditions.ready(Reason.APPROVED, message))
        case NoBaseline():
            advice = f"to let a service use it: kubectl annotate mver {name} {APPROVE_VERSION}={name}"
        case Baseline(status):
            advice = _not_beside(status.version)
        case Unknown():
            advice = _not_beside("a deleted version")
        case never:
            assert_never(never)
    message = f"{summary}: it may be trained from; {advice}"
    return Step("AwaitingApproval", [conditions.condition("Ready", "False", Reason.AWAITING_APPROVAL, message)])


def _not_beside(stable: str) -> str:
    return f"no service uses it while {stable} serves: train a version with suites"
