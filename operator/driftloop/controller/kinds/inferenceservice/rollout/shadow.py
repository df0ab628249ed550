"""A candidate that answers copies of stable's requests, and no user, before its canary. Pure.

While a revision is hidden, the service's Service selects only stable's pods. It stays hidden until it has passed, a
person promotes it, or its pods are gone.
"""

from dataclasses import replace

from driftloop.api.inferenceservice import ShadowStatus
from driftloop.controller.kinds.inferenceservice.questions import shadow_due
from driftloop.controller.kinds.inferenceservice.rollout.moves import (
    RELEASED,
    Failure,
    Rollout,
    roll_back,
    unchanged,
)
from driftloop.controller.kinds.inferenceservice.rollout.pair import Pair, keep_comparing
from driftloop.controller.kinds.inferenceservice.shadowing import Shadowing, analyse_shadow
from driftloop.controller.vocabulary.conditions import shorten, timestamp
from driftloop.controller.vocabulary.labels import SHADOW_STARTED, WEIGHT
from driftloop.controller.vocabulary.plan import Event
from driftloop.controller.vocabulary.reasons import Reason


def shadow(pair: Pair) -> Rollout:
    """The next step of a hidden candidate whose pods are all ready."""
    spec, candidate = pair.situation.observed.spec.canary.shadow, pair.candidate
    if spec is None:
        return _release(pair, None, "spec.canary.shadow was removed")
    if candidate.has_tls:
        return _impossible(pair, "copies of requests are not sent over HTTPS")
    if not pair.stable.can_shadow:
        return _impossible(pair, f"an earlier release created the pods of {pair.stable.version}, which send no copies")
    if candidate.shadow_started is None:
        return _begin(pair)
    status = pair.situation.observed.status.shadow
    if status is None or shadow_due(pair.situation):
        limits = Shadowing(spec, pair.situation.observed.spec.canary)
        counts = pair.situation.observed.shadow_counts
        status = analyse_shadow(limits, counts, candidate.shadow_started, pair.situation.now)
    return _judged(pair, status)


def _begin(pair: Pair) -> Rollout:
    candidate = pair.candidate
    begun = replace(
        unchanged(pair.situation, candidate),
        replicas=pair.size,
        annotations={SHADOW_STARTED: timestamp(pair.situation.now)},
    )
    message = f"{candidate.version} answers copies of requests to {pair.stable.version}, and no user"
    event = Event("Normal", Reason.SHADOW_STARTED, message)
    return Rollout("Shadow", Reason.SHADOWING, message, (*pair.keep_stable(), begun), (event,), candidate)


def _judged(pair: Pair, status: ShadowStatus) -> Rollout:
    why = status.message or ""
    if status.verdict == "RollBack":
        failure = Failure(Reason.SHADOW_WORSE, f"in the shadow, before any user: {why}")
        step = roll_back(pair.situation, pair.candidate, failure)
        return replace(step, beside=pair.keep_stable(), shadow=status)
    if status.verdict == "Pass":
        return _release(pair, status, why)
    reason = Reason.SHADOW_PAUSED if status.verdict == "Paused" else Reason.SHADOWING
    message = f"{pair.candidate.version} in the shadow of {pair.stable.version}: {why}"
    return replace(keep_comparing(pair, reason, message), shadow=status)


def _release(pair: Pair, status: ShadowStatus | None, why: str) -> Rollout:
    """Let the candidate have users: the canary begins with the next step, after the Service selects its pods.

    With a Gateway the Service does not select them: users come by the candidate's weight.
    """
    candidate = pair.candidate
    by_weight = {SHADOW_STARTED: None, WEIGHT: "0"}
    notes = by_weight if pair.situation.observed.spec.gateway else RELEASED
    released = replace(unchanged(pair.situation, candidate), replicas=pair.size, annotations=dict(notes))
    message = f"{candidate.version} goes from the shadow on to the canary: {why}"
    event = Event("Normal", Reason.SHADOW_PASSED, shorten(message, 1000))
    actions = (*pair.keep_stable(), released)
    return Rollout("Canary", Reason.SHADOW_PASSED, message, actions, (event,), candidate, shadow=status)


def _impossible(pair: Pair, why: str) -> Rollout:
    """Wait for a person: without a shadow the candidate must not get users, because the spec asks for one."""
    ways = f"promote {pair.candidate.version} by a person's command, or remove spec.canary.shadow for this rollout"
    return keep_comparing(pair, Reason.SHADOW_IMPOSSIBLE, f"{why}: {ways}")
