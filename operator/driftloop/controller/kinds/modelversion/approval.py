"""A version that no suite judged: it may be trained from, and serves only where a person says so. Pure.

Beside a stable version nobody can say so: nothing was compared with what would be replaced.
"""

from driftloop.controller.kinds.modelversion.baseline import Baseline, NoBaseline, baseline
from driftloop.controller.kinds.modelversion.observed import Observed, Phase
from driftloop.controller.kinds.step import Step
from driftloop.controller.vocabulary import conditions
from driftloop.controller.vocabulary.labels import APPROVE_VERSION
from driftloop.controller.vocabulary.reasons import Reason


def unproven(observed: Observed, summary: str) -> Step[Phase]:
    """Approved by the annotation with the version's own name, where none is stable; else it waits for that."""
    against, name = baseline(observed), observed.name
    alone = isinstance(against, NoBaseline)
    if alone and observed.annotations.get(APPROVE_VERSION) == name:
        message = f"{summary}; approved by the annotation {APPROVE_VERSION}"
        return Step("Approved", conditions.ready(Reason.APPROVED, message))
    if alone:
        way = f"kubectl annotate mver {name} {APPROVE_VERSION}={name} lets a service take it"
    else:
        stable = against.status.version if isinstance(against, Baseline) else "a version that is gone"
        way = f"beside {stable}, which serves, no service takes it: train a version with suites"
    message = f"{summary}: it may be trained from; {way}"
    return Step("AwaitingApproval", [conditions.condition("Ready", "False", Reason.AWAITING_APPROVAL, message)])
