"""The moves of a candidate whose share of the requests is a weight of the service's Gateway. Pure.

The Service selects only stable's pods, and the Service `NAME-canary` the candidate's. The HTTPRoute divides the
requests between both. A step begins only while the Gateway is known to follow the route.
"""

from dataclasses import replace

from driftloop.api.inferenceservice import Analysis
from driftloop.controller.kinds.inferenceservice.gateway import route_state
from driftloop.controller.kinds.inferenceservice.rollout.moves import RELEASED, Rollout, unchanged
from driftloop.controller.kinds.inferenceservice.rollout.pair import Pair, keep_comparing
from driftloop.controller.kinds.inferenceservice.rollout.steps import in_words, next_weight, part_of
from driftloop.controller.vocabulary.conditions import timestamp
from driftloop.controller.vocabulary.labels import ANALYSIS, WEIGHT
from driftloop.controller.vocabulary.plan import Event
from driftloop.controller.vocabulary.reasons import Reason


def begin_step(pair: Pair, analysis: Analysis | None = None) -> Rollout:
    """Give the candidate the weight of its next step, and begin a new analysis. `analysis`: that of the last step."""
    if wait := wait_for_gateway(pair, analysis):
        return wait
    candidate, canary = pair.candidate, pair.situation.observed.spec.canary
    weight = next_weight(canary, candidate.weight or 0)
    stepping = replace(candidate, weight=weight)
    begun = replace(
        unchanged(pair.situation, candidate),
        replicas=pair.size,
        annotations={WEIGHT: str(weight), ANALYSIS: timestamp(pair.situation.now)},
    )
    why = f": {analysis.message}" if analysis else ""
    message = f"{candidate.version} gets {in_words(stepping, part_of(canary, stepping))} beside {pair.stable.version}"
    event = Event("Normal", Reason.NEXT_STEP if analysis else Reason.ANALYSIS_STARTED, message + why)
    actions = (*pair.keep_stable(), begun)
    return Rollout("Canary", Reason.ANALYSING, message, actions, (event,), candidate, analysis)


def wait_for_gateway(pair: Pair, analysis: Analysis | None = None) -> Rollout | None:
    """Keep the candidate as it is while it is not known that the Gateway follows the route; None if it is known."""
    state = route_state(pair.situation.observed, pair.situation.settings)
    if pair.candidate.weight is None or state is None or state.obstacle is None:
        return None
    message = f"{pair.candidate.version} waits for the Gateway: {state.obstacle}"
    reason = Reason.ROUTE_PENDING if state.status == "True" else state.reason
    return replace(keep_comparing(pair, reason, message), analysis=analysis)


def leave_gateway(pair: Pair) -> Rollout:
    """Without a Gateway in the spec, go on by the numbers of pods, with a new analysis."""
    released = replace(
        unchanged(pair.situation, pair.candidate),
        replicas=pair.size,
        annotations={**RELEASED, ANALYSIS: None},
    )
    message = f"spec.gateway was removed: {pair.candidate.version} gets its share by its number of pods"
    event = Event("Normal", Reason.GATEWAY_REMOVED, message)
    actions = (*pair.keep_stable(), released)
    return Rollout("Canary", Reason.GATEWAY_REMOVED, message, actions, (event,), pair.candidate)
