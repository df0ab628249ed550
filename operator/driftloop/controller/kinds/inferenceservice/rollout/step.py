"""The next step of a rollout, from the module for its current state. Pure."""

from dataclasses import replace

from driftloop.controller.kinds.inferenceservice.acceptance import announcement
from driftloop.controller.kinds.inferenceservice.gateway import route_state
from driftloop.controller.kinds.inferenceservice.observed import Revision, Version
from driftloop.controller.kinds.inferenceservice.rollout import orders
from driftloop.controller.kinds.inferenceservice.rollout.canary import canary, start
from driftloop.controller.kinds.inferenceservice.rollout.first import first
from driftloop.controller.kinds.inferenceservice.rollout.moves import POLL_SECONDS, Rollout
from driftloop.controller.kinds.inferenceservice.rollout.orders import Ignored, Order
from driftloop.controller.kinds.inferenceservice.rollout.pair import Pair
from driftloop.controller.kinds.inferenceservice.rollout.sleep import not_awake, or_closing
from driftloop.controller.kinds.inferenceservice.rollout.steady import is_needed, steady
from driftloop.controller.kinds.inferenceservice.rollout.sweep import failed_list, sweep
from driftloop.controller.kinds.inferenceservice.selection import Choice, choose
from driftloop.controller.kinds.inferenceservice.situation import Situation


def next_step(situation: Situation) -> Rollout:
    """The next step of the rollout, and the clean-up of other revisions."""
    choice, order = choose(situation), orders.new_order(situation)
    step = _step(situation, choice, order)
    command = orders.last_command(situation, step, order)
    news = (*announcement(situation, choice.waiting), *orders.announcement(situation, command))
    return replace(
        step,
        beside=(*step.beside, *sweep(situation, step)),
        failed=failed_list(situation, step),
        blocked=step.blocked or choice.blocked,
        waiting=choice.waiting,
        command=command,
        events=(*step.events, *news),
    )


def _step(situation: Situation, choice: Choice, order: Order | Ignored | None) -> Rollout:
    stable, candidate = situation.stable, situation.candidate
    if stable is None:
        return first(situation, choice)
    if stable.sleep:
        return not_awake(situation, stable, choice)
    if choice.version is None or choice.revision is None or choice.revision == stable.revision:
        return or_closing(situation, stable, steady(situation, stable, choice))
    if candidate and (candidate.revision == choice.revision or _is_held_back(situation, candidate, choice.version)):
        return orders.step_of(Pair(situation, stable, candidate), order, canary)
    if candidate and not stable.available:
        # If only the candidate serves users, it is not replaced by the next candidate.
        return canary(Pair(situation, stable, candidate))
    if candidate and is_needed(situation, stable, candidate):
        return steady(situation, stable, choice)
    if waiting := _waiting(situation, choice):
        return replace(steady(situation, stable, waiting), requeue_after=POLL_SECONDS)
    return start(situation, stable, choice.version)


def _waiting(situation: Situation, choice: Choice) -> Choice | None:
    """The choice with the reason why it is not started yet: its Gateway does not carry requests. None without one."""
    state = route_state(situation.observed, situation.settings)
    if state is None or state.obstacle is None or choice.version is None:
        return None
    return replace(
        choice, reason=state.reason, message=f"{choice.version.name} waits for the Gateway: {state.obstacle}"
    )


def _is_held_back(situation: Situation, candidate: Revision, chosen: Version) -> bool:
    """Whether a person has paused the candidate, so that a newer version does not take its place by itself."""
    version = situation.observed.version(candidate.version)
    if not candidate.is_held or candidate.promoted or version is None or version.phase != "Approved":
        return False
    same_spec = situation.revision_of(version) == candidate.revision
    return same_spec and situation.observed.spec.model.version is None and chosen.name != candidate.version
