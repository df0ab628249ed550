"""The steps of a candidate's weight, where the service has a Gateway. Pure.

The weight is recorded on the candidate's Deployment: 0 until the first step begins. The analysis of a step begins with
the step, so the annotation ANALYSIS is the time since when the weight has been in effect.
"""

import math
from collections.abc import Sequence

from driftloop.api.gateway import DEFAULT_STEPS, CanaryStep
from driftloop.api.inferenceservice import Canary, InferenceServiceSpec
from driftloop.controller.kinds.inferenceservice.analysis import WHOLE, Part
from driftloop.controller.kinds.inferenceservice.observed import Revision


def steps_of(canary: Canary) -> Sequence[CanaryStep]:
    """The steps of a canary by weight."""
    return canary.steps or DEFAULT_STEPS


def next_weight(canary: Canary, weight: int) -> int | None:
    """The weight of the next step; None in the last one. The steps may have been changed since the last one."""
    return next((step.weight for step in steps_of(canary) if step.weight > weight), None)


def part_of(canary: Canary, candidate: Revision) -> Part:
    """The part of the canary that the candidate is in."""
    if candidate.weight is None:
        return WHOLE
    steps = steps_of(canary)
    begun = sum(step.weight <= candidate.weight for step in steps)
    return Part(max(1, begun), len(steps))


def limits_of(canary: Canary, part: Part) -> Canary:
    """The limits of the canary, with those of a step before its last one."""
    if part.is_last:
        return canary
    step = steps_of(canary)[part.number - 1]
    return canary.model_copy(update={"min_requests": step.min_requests, "min_seconds": step.min_seconds})


def weighted_size(spec: InferenceServiceSpec) -> int:
    """Number of candidate pods at which its pods are as busy as stable's, with the largest weight.

    The same number in all steps, so that no step waits for room in the cluster.
    """
    return pods_for(spec.replicas, steps_of(spec.canary)[-1].weight)


def pods_for(replicas: int, weight: int) -> int:
    """Number of candidate pods for `weight` percent, beside `replicas` stable pods; at most as many.

    >>> [pods_for(4, weight) for weight in (1, 10, 33, 50, 99)]
    [1, 1, 2, 4, 4]
    >>> [pods_for(replicas, 50) for replicas in (0, 1, 2, 3)]
    [0, 1, 2, 3]
    """
    if weight >= 50:
        return replicas
    return math.ceil(replicas * weight / (100 - weight))


def weight_in_effect(candidate: Revision | None) -> int:
    """Percent of the Gateway's requests that go to the candidate now.

    0 before its first step, without a ready pod, and once it is promoted: then the Service selects its pods.
    """
    if candidate is None or candidate.analysis_started is None or candidate.promoted or not candidate.available:
        return 0
    return candidate.weight or 0


def in_words(candidate: Revision, part: Part) -> str:
    """The step, for people."""
    return f"{candidate.weight} % (step {part.number} of {part.of})"
