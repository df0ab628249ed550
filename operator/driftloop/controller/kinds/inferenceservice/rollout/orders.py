"""Commands of people about the candidate: pause, resume, promote, abort (`command`). Pure.

A command is obeyed only while its revision is the candidate beside a stable one and has not been promoted yet. Any
other command does nothing, and the status explains why. It is not obeyed later either: a person may have forgotten it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import assert_never

from driftloop.api.inferenceservice import RolloutCommand
from driftloop.controller.kinds.inferenceservice.command import (
    USAGE,
    Command,
    Record,
    parse,
    recorded,
    remembered,
)
from driftloop.controller.kinds.inferenceservice.questions import PAUSED_SECONDS, arms_due
from driftloop.controller.kinds.inferenceservice.rollout.canary import analysed, promote, roll_back_beside
from driftloop.controller.kinds.inferenceservice.rollout.moves import (
    Failure,
    Rollout,
    Success,
    problem_suffix,
    unchanged,
)
from driftloop.controller.kinds.inferenceservice.rollout.pair import Pair
from driftloop.controller.kinds.inferenceservice.situation import Situation
from driftloop.controller.vocabulary.conditions import shorten, timestamp
from driftloop.controller.vocabulary.labels import COMMAND, ROLLOUT
from driftloop.controller.vocabulary.plan import Event
from driftloop.controller.vocabulary.reasons import Reason

_MESSAGE = 1000


@dataclass(frozen=True)
class Order:
    """A command that the operator has not acted on yet."""

    value: str  # of the annotation, as the status holds it
    command: Command  # what it demands


@dataclass(frozen=True)
class Ignored:
    """A command that does nothing."""

    why: str  # for status and Event


def new_order(situation: Situation) -> Order | Ignored | None:
    """The command in the annotation. None without one, or if it was acted on already. Ignored: it is not a command."""
    value = _value(situation)
    status = situation.observed.status.command
    if value is None or (status is not None and status.value == value) or _record_of(situation, value):
        return None
    command = parse(value)
    return Order(value, command) if command else Ignored(f"annotation {ROLLOUT}: must be {USAGE!r}, not {value!r}")


def last_command(situation: Situation, step: Rollout, order: Order | Ignored | None) -> RolloutCommand | None:
    """The status of the last command: that of `step`, else the new one, which was ignored, else the known one."""
    if step.command is not None:
        return step.command
    match order:
        case Order(command=command):
            return _ignored(situation, order, _why_not(situation, command))
        case Ignored(why):
            value, message = _value(situation) or "", shorten(why, _MESSAGE)
            return RolloutCommand(value=value, time=timestamp(situation.now), obeyed=False, message=message)
        case None:
            return _recovered(situation) or situation.observed.status.command
        case never:
            assert_never(never)


def announcement(situation: Situation, command: RolloutCommand | None) -> tuple[Event, ...]:
    """The Event about a command that was ignored just now."""
    if command is None or command.obeyed or command == situation.observed.status.command:
        return ()
    return (Event("Warning", Reason.COMMAND_IGNORED, shorten(command.message, _MESSAGE)),)


def step_of(pair: Pair, order: Order | Ignored | None, automatic: Callable[[Pair], Rollout]) -> Rollout:
    """The next step: that of the order, else none while the rollout is paused, else the automatic one."""
    match _obeyed(pair, order):
        case Rollout() as step:
            return step
        case RolloutCommand() | None as ignored:
            waits = pair.candidate.is_held and not pair.candidate.promoted
            return replace(held(pair) if waits else automatic(pair), command=ignored)
        case never:
            assert_never(never)


def _obeyed(pair: Pair, order: Order | Ignored | None) -> Rollout | RolloutCommand | None:
    """The step of an order, or the status of one that does nothing. None without an order about this candidate."""
    match order:
        case Order(command=command) if command.revision == pair.candidate.revision and not pair.candidate.promoted:
            answer = _answer(pair, order)
        case Order() | Ignored() | None:
            return None
        case never:
            assert_never(never)
    match answer:
        case Rollout() as step:
            return step
        case Ignored(why):
            return _ignored(pair.situation, order, why)
        case no_answer:
            assert_never(no_answer)


def _answer(pair: Pair, order: Order) -> Rollout | Ignored:
    match order.command.action:
        case "pause":
            return _hold(pair, order)
        case "resume":
            return _resume(pair, order)
        case "promote":
            return _promote(pair, order)
        case "abort":
            return _abort(pair, order)
        case never:
            assert_never(never)


def held(pair: Pair) -> Rollout:
    """The step of a rollout that a person has paused: nothing changes, and the figures are only shown."""
    candidate, started = pair.candidate, pair.candidate.analysis_started
    known = pair.situation.observed.status.analysis if started else None
    analysis = analysed(pair, started) if started and arms_due(pair.situation) else known
    so_far = f". So far: {analysis.message}" if analysis else ""
    return Rollout(
        "Paused",
        Reason.ROLLOUT_PAUSED,
        f"{_paused_by(candidate.obeyed)}{problem_suffix(candidate)}{so_far}",
        pair.keep(),
        candidate=candidate,
        analysis=analysis,
        requeue_after=PAUSED_SECONDS,
    )


def _hold(pair: Pair, order: Order) -> Rollout:
    text = f"{pair.candidate.version} is paused by {_who(order.command)}"
    step = _noted(pair, order, Rollout("Paused", Reason.ROLLOUT_PAUSED, text))
    return replace(step, events=(Event("Normal", Reason.ROLLOUT_PAUSED, text),))


def _resume(pair: Pair, order: Order) -> Rollout | Ignored:
    if not pair.candidate.is_held:
        return Ignored(f"resume: the rollout of revision {pair.candidate.revision} is not paused by a command")
    text = f"{pair.candidate.version} goes on, by {_who(order.command)}"
    step = _noted(pair, order, Rollout("Canary", Reason.ROLLOUT_RESUMED, text))
    return replace(step, events=(Event("Normal", Reason.ROLLOUT_RESUMED, text),))


def _noted(pair: Pair, order: Order, step: Rollout) -> Rollout:
    """`step` with the command recorded on the candidate's Deployment. Both revisions keep their pods."""
    note = replace(unchanged(pair.situation, pair.candidate), replicas=pair.size, annotations=dict(_note(pair, order)))
    return replace(
        step,
        actions=(*pair.keep_stable(), note),
        candidate=pair.candidate,
        command=_status(pair.situation, order, step.message),
    )


def _promote(pair: Pair, order: Order) -> Rollout | Ignored:
    candidate, observed = pair.candidate, pair.situation.observed
    version = observed.version(candidate.version)
    if version is None or version.phase != "Approved":
        phase = (version.phase if version else None) or "not known"
        return Ignored(f"promote: {candidate.version} is {phase}, not Approved")
    if candidate.available == 0 or candidate.available < pair.size:
        return Ignored(f"promote: {candidate.available} of {pair.size} pods of {candidate.version} are ready")
    text = f"{candidate.version} is promoted by {_who(order.command)}"
    event = Event("Normal", Reason.ROLLOUT_PROMOTED, text)
    analysis = observed.status.analysis if candidate.analysis_started else None
    step = promote(pair, Success(event, analysis, _note(pair, order)))
    return replace(step, command=_status(pair.situation, order, text))


def _abort(pair: Pair, order: Order) -> Rollout | Ignored:
    candidate, stable = pair.candidate, pair.stable
    if candidate.available and not stable.available:
        return Ignored(f"abort: {stable.version} has no ready pod, only {candidate.version} answers users")
    text = f"aborted by {_who(order.command)}"
    analysis = pair.situation.observed.status.analysis if candidate.analysis_started else None
    step = roll_back_beside(pair, Failure(Reason.ROLLOUT_ABORTED, text, analysis, _note(pair, order)))
    return replace(step, command=_status(pair.situation, order, step.message))


def _note(pair: Pair, order: Order) -> Mapping[str, str]:
    return {COMMAND: recorded(order.value, pair.situation.now)}


def _why_not(situation: Situation, command: Command) -> str:
    """Why a command about this revision can't be obeyed now."""
    candidate, action, revision = situation.candidate, command.action, command.revision
    if candidate is None:
        return f"{action} {revision}: there is no candidate"
    if candidate.revision != revision:
        return f"{action} {revision}: the candidate is revision {candidate.revision} ({candidate.version})"
    if situation.stable is None:
        return f"{action} {revision}: no revision serves yet, so the first one is not compared"
    if candidate.promoted:
        return f"{action} {revision}: it takes over already; to return, pin another version in spec.model.version"
    return f"{action} {revision}: it is not tried any more, as another revision should serve"


def _value(situation: Situation) -> str | None:
    value = situation.observed.annotations.get(ROLLOUT)
    return remembered(value) if value is not None and value.strip() else None


def _record_of(situation: Situation, value: str) -> Record | None:
    """The record on a Deployment that this value was obeyed."""
    records = (revision.obeyed for revision in situation.observed.revisions)
    return next((record for record in records if record and record.value == value), None)


def _recovered(situation: Situation) -> RolloutCommand | None:
    """The status of an obeyed command, from its record on a Deployment; None if the status has it."""
    value, known = _value(situation), situation.observed.status.command
    record = _record_of(situation, value) if value and (known is None or known.value != value) else None
    if record is None:
        return None
    message = f"{record.command.action} was obeyed, by {_who(record.command)}"
    status = _status(situation, Order(record.value, record.command), message)
    return status.model_copy(update={"time": timestamp(record.time)})


def _status(situation: Situation, order: Order, message: str) -> RolloutCommand:
    """The status of a command that is obeyed now."""
    command = order.command
    return RolloutCommand(
        value=order.value,
        action=command.action,
        revision=command.revision,
        by=command.by,
        time=timestamp(situation.now),
        obeyed=True,
        message=shorten(message, _MESSAGE),
    )


def _ignored(situation: Situation, order: Order, why: str) -> RolloutCommand:
    return _status(situation, order, why).model_copy(update={"obeyed": False})


def _who(command: Command) -> str:
    return command.by or f"the annotation {ROLLOUT}"


def _paused_by(record: Record | None) -> str:
    return f"paused by {_who(record.command)} since {timestamp(record.time)}" if record else "paused"
