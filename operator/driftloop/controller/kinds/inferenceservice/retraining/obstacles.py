"""What keeps a retraining from starting that was asked for: a list of checks, in their order. Pure."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

from driftloop.api.inferenceservice import RetrainingState, RetrainingStatus
from driftloop.controller.kinds.inferenceservice.retraining.asks import Ask
from driftloop.controller.kinds.inferenceservice.retraining.history import Basis, History
from driftloop.controller.vocabulary.conditions import timestamp
from driftloop.controller.vocabulary.labels import APPROVE
from driftloop.controller.vocabulary.plan import Action, Event
from driftloop.controller.vocabulary.reasons import Reason

POLL_SECONDS = 10.0
_MAX_DOUBLINGS = 16  # of the cooldown: 2^16 hours are seven years


@dataclass(frozen=True)
class Decision:
    """What to do, and the status that says why."""

    status: RetrainingStatus | None
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    blocked: bool = False  # somebody has to act
    refused: RetrainingStatus | None = None  # the status when one of the actions is refused
    requeue_after: float | None = None  # seconds


@dataclass(frozen=True)
class Case:
    """A retraining that something asks for."""

    basis: Basis
    history: History
    ask: Ask
    status: RetrainingStatus  # as far as it does not depend on the decision
    proposal: str  # name of the job that would be created


def breaker_open(case: Case) -> Decision | None:
    """Too many candidates in a row were rejected: somebody has to look."""
    rejections = case.history.rejections
    if rejections < case.basis.spec.max_rejections:
        return None
    message = (
        f"{rejections} candidates in a row were rejected: look at their gates and at the data, "
        "then raise spec.retraining.maxRejections, or have another version promoted"
    )
    event = Event("Warning", Reason.RETRAINING_BLOCKED, message)
    return replace(_keep(case, "Blocked", message), events=_once(case, "Blocked", event), blocked=True)


def daily_budget_used(case: Case) -> Decision | None:
    """As many jobs as the spec allows were created within a day."""
    today, most = case.history.today, case.basis.spec.max_jobs_per_day
    return _keep(case, "Cooldown", f"{today} of {most} jobs of a day are used up") if today >= most else None


def cooling_down(case: Case) -> Decision | None:
    """The last retraining ended too short a time ago; each rejection doubles that time."""
    history = case.history
    rest = cooldown_left(case)
    if rest <= 0:
        return None
    why = f" after {history.rejections} rejections" if history.rejections else ""
    until = timestamp(case.basis.situation.now + timedelta(seconds=rest))
    return replace(_keep(case, "Cooldown", f"rests until {until}{why}"), requeue_after=max(1.0, rest))


def samples_unknown(case: Case) -> Decision | None:
    """Corrections are needed, and nobody can say how many there are: unknown is never enough."""
    needed = case.status.samples_needed
    if not needed or case.basis.observed.samples is not None:
        return None
    return waiting(case, f"?/{needed} samples: Prometheus does not say how many there are")


def too_few_samples(case: Case) -> Decision | None:
    """There are fewer corrections than the spec asks for."""
    samples, needed = case.status.samples, case.status.samples_needed
    return waiting(case, f"{samples}/{needed} samples") if samples < needed else None


def not_approved(case: Case) -> Decision | None:
    """The spec wants a person's approval, and the annotation does not name this proposal."""
    observed = case.basis.observed
    if case.basis.spec.approval != "manual" or observed.annotations.get(APPROVE) == case.proposal:
        return None
    message = f"kubectl annotate dlsvc {observed.name} --overwrite {APPROVE}={case.proposal}"
    asks = Event("Normal", Reason.RETRAINING_PROPOSED, f"{case.ask.kind} asks for {case.proposal}: {message}")
    status = _status(case, "AwaitingApproval", message).model_copy(update={"proposal": case.proposal})
    return Decision(status, events=_once(case, "AwaitingApproval", asks))


OBSTACLES: tuple[Callable[[Case], Decision | None], ...] = (
    breaker_open,
    daily_budget_used,
    cooling_down,
    samples_unknown,
    too_few_samples,
    not_approved,
)


def obstacle(case: Case) -> Decision | None:
    """The first of them; None: nothing is in the way."""
    return next((decision for check in OBSTACLES if (decision := check(case)) is not None), None)


def cooldown_left(case: Case) -> float:
    """Seconds; none before the first retraining."""
    history = case.history
    if history.last_finished is None:
        return 0.0
    rest = case.basis.spec.cooldown_seconds * 2 ** min(history.rejections, _MAX_DOUBLINGS)
    return float(rest - (case.basis.situation.now - history.last_finished).total_seconds())


def waiting(case: Case, message: str) -> Decision:
    """For something that comes without anybody's doing."""
    return _keep(case, "Waiting", message)


def _keep(case: Case, state: RetrainingState, message: str) -> Decision:
    return Decision(_status(case, state, message), requeue_after=POLL_SECONDS)


def _status(case: Case, state: RetrainingState, message: str) -> RetrainingStatus:
    return case.status.model_copy(update={"state": state, "message": f"{state}: {message}"})


def _once(case: Case, state: RetrainingState, event: Event) -> tuple[Event, ...]:
    """The Event of a state, when it begins."""
    before = case.basis.observed.status.retraining
    return (event,) if before is None or before.state != state else ()
