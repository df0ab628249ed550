"""What prevents a triggered retraining from starting: an ordered list of checks. Pure."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

from driftloop.api.inferenceservice import RetrainingState, RetrainingStatus
from driftloop.controller.kinds.inferenceservice.acceptance import unreachable
from driftloop.controller.kinds.inferenceservice.retraining.history import Basis, History
from driftloop.controller.kinds.inferenceservice.retraining.triggers import RetrainingTrigger
from driftloop.controller.vocabulary.conditions import timestamp
from driftloop.controller.vocabulary.labels import APPROVE
from driftloop.controller.vocabulary.plan import Action, Event
from driftloop.controller.vocabulary.reasons import Reason

POLL_SECONDS = 10.0
_MAX_DOUBLINGS = 16  # doublings of the cooldown: 2^16 hours are seven years


@dataclass(frozen=True)
class Decision:
    """The actions of a retraining, and the status that explains them."""

    status: RetrainingStatus | None  # status.retraining; None: retraining is off
    actions: tuple[Action, ...] = ()  # creation of the job
    events: tuple[Event, ...] = ()  # recorded once the actions have succeeded
    blocked: bool = False  # a person must act
    refused: RetrainingStatus | None = None  # the status if one of the actions is refused
    requeue_after: float | None = None  # seconds


@dataclass(frozen=True)
class Case:
    """A retraining that was triggered."""

    basis: Basis  # the service that is retrained
    history: History  # its retrainings so far
    trigger: RetrainingTrigger  # what triggered this one
    status: RetrainingStatus  # the fields that do not depend on the decision
    proposal: str  # name of the job that would be created


def no_gain_to_show(case: Case) -> Decision | None:
    """Drift triggered it, but no suite of its job could show the gain that ends an alarm."""
    suites = case.basis.spec.job_template.spec.evaluation.suites
    if case.trigger.kind != "Drift" or any(suite.kind == "target" for suite in suites):
        return None
    message = (
        "no version of this job could end the alarm: give spec.retraining.jobTemplate.spec.evaluation.suites a suite "
        "of kind target, for example with items: feedback"
    )
    return _blocked(case, message)


def never_accepted(case: Case) -> Decision | None:
    """The service would take no version of the job, because its evaluation lacks what acceptance requires."""
    fault = unreachable(case.basis.situation, case.basis.spec.job_template.spec)
    if fault is None:
        return None
    return _blocked(case, f"acceptance would refuse every version: spec.retraining.jobTemplate.spec.{fault}")


def breaker_open(case: Case) -> Decision | None:
    """Too many candidates in a row were rejected or not accepted: a person must find out why."""
    rejections = case.history.rejections
    if rejections < case.basis.spec.max_rejections:
        return None
    message = (
        f"{rejections} candidates in a row were rejected or not accepted: check their gates, the data, "
        "status.waiting and status.proposal, then raise spec.retraining.maxRejections, or promote another version"
    )
    return _blocked(case, message)


def daily_budget_used(case: Case) -> Decision | None:
    """The jobs that the spec allows per day were created within the last 24 hours."""
    today, limit = case.history.today, case.basis.spec.max_jobs_per_day
    return _keep(case, "Cooldown", f"{today} of {limit} jobs per day are used") if today >= limit else None


def cooling_down(case: Case) -> Decision | None:
    """The cooldown after the previous retraining is not over. Each rejection doubles the cooldown."""
    history = case.history
    left = cooldown_left(case)
    if left <= 0:
        return None
    why = f" after {history.rejections} rejections" if history.rejections else ""
    until = timestamp(case.basis.situation.now + timedelta(seconds=left))
    return replace(_keep(case, "Cooldown", f"no retraining before {until}{why}"), requeue_after=max(1.0, left))


def samples_unknown(case: Case) -> Decision | None:
    """Corrections are needed, but Prometheus does not return their number, which is never enough."""
    needed = case.status.samples_needed
    if not needed or case.basis.observed.samples is not None:
        return None
    return waiting(case, f"?/{needed} samples: Prometheus does not return their number")


def too_few_samples(case: Case) -> Decision | None:
    """There are fewer corrections than the spec requires."""
    samples, needed = case.status.samples, case.status.samples_needed
    return waiting(case, f"{samples}/{needed} samples") if samples < needed else None


def not_approved(case: Case) -> Decision | None:
    """The spec requires approval by a person, and the annotation does not name this proposal."""
    observed = case.basis.observed
    if case.basis.spec.approval != "manual" or observed.annotations.get(APPROVE) == case.proposal:
        return None
    message = f"kubectl annotate dlsvc {observed.name} --overwrite {APPROVE}={case.proposal}"
    text = f"{case.trigger.kind} triggered {case.proposal}, which needs approval: {message}"
    event = Event("Normal", Reason.RETRAINING_PROPOSED, text)
    status = _status(case, "AwaitingApproval", message).model_copy(update={"proposal": case.proposal})
    return Decision(status, events=_once(case, "AwaitingApproval", event))


OBSTACLES: tuple[Callable[[Case], Decision | None], ...] = (
    no_gain_to_show,
    never_accepted,
    breaker_open,
    daily_budget_used,
    cooling_down,
    samples_unknown,
    too_few_samples,
    not_approved,
)


def obstacle(case: Case) -> Decision | None:
    """The decision of the first check that finds an obstacle; None without an obstacle."""
    return next((decision for check in OBSTACLES if (decision := check(case)) is not None), None)


def cooldown_left(case: Case) -> float:
    """Seconds until the cooldown is over; 0 before the first retraining."""
    history = case.history
    if history.last_finished is None:
        return 0.0
    cooldown = case.basis.spec.cooldown_seconds * 2 ** min(history.rejections, _MAX_DOUBLINGS)
    return float(cooldown - (case.basis.situation.now - history.last_finished).total_seconds())


def waiting(case: Case, message: str) -> Decision:
    """Wait for something that may happen without a person's action."""
    return _keep(case, "Waiting", message)


def _blocked(case: Case, message: str) -> Decision:
    event = Event("Warning", Reason.RETRAINING_BLOCKED, message)
    return replace(_keep(case, "Blocked", message), events=_once(case, "Blocked", event), blocked=True)


def _keep(case: Case, state: RetrainingState, message: str) -> Decision:
    return Decision(_status(case, state, message), requeue_after=POLL_SECONDS)


def _status(case: Case, state: RetrainingState, message: str) -> RetrainingStatus:
    return case.status.model_copy(update={"state": state, "message": f"{state}: {message}"})


def _once(case: Case, state: RetrainingState, event: Event) -> tuple[Event, ...]:
    """The Event, only when the state begins."""
    before = case.basis.observed.status.retraining
    return (event,) if before is None or before.state != state else ()
