"""The next step of a rollout, from the module for its current state. Pure."""

from dataclasses import replace

from driftloop.controller.kinds.inferenceservice.acceptance import announcement
from driftloop.controller.kinds.inferenceservice.rollout.canary import Pair, canary, start
from driftloop.controller.kinds.inferenceservice.rollout.first import first
from driftloop.controller.kinds.inferenceservice.rollout.moves import Rollout
from driftloop.controller.kinds.inferenceservice.rollout.steady import is_needed, steady
from driftloop.controller.kinds.inferenceservice.rollout.sweep import failed_list, sweep
from driftloop.controller.kinds.inferenceservice.selection import Choice, choose
from driftloop.controller.kinds.inferenceservice.situation import Situation


def next_step(situation: Situation) -> Rollout:
    """The next step of the rollout, and the clean-up of other revisions."""
    choice = choose(situation)
    step = _step(situation, choice)
    return replace(
        step,
        beside=(*step.beside, *sweep(situation, step)),
        failed=failed_list(situation, step),
        blocked=step.blocked or choice.blocked,
        waiting=choice.waiting,
        events=(*step.events, *announcement(situation, choice.waiting)),
    )


def _step(situation: Situation, choice: Choice) -> Rollout:
    stable, candidate = situation.stable, situation.candidate
    if stable is None:
        return first(situation, choice)
    if choice.version is None or choice.revision is None or choice.revision == stable.revision:
        return steady(situation, stable, choice)
    if candidate and (candidate.revision == choice.revision or not stable.available):
        # If only the candidate serves users, it is not replaced by the next candidate.
        return canary(Pair(situation, stable, candidate))
    if candidate and is_needed(situation, stable, candidate):
        return steady(situation, stable, choice)
    return start(situation, stable, choice.version)
