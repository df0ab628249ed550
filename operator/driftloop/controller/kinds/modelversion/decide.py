"""ModelVersion: evaluate, judge, and protect what serves. Pure.

A judgement stands, but for a version that may still be rolled out: when what it would replace has changed since, it is
evaluated again, against that.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, assert_never

from pydantic import ValidationError

from driftloop.api.modelversion import JUDGED, Artefact, BaselineStatus, ModelVersionPhase
from driftloop.contract.result import AnswerResult, EvaluateResult
from driftloop.controller.kinds import step as steps
from driftloop.controller.kinds import versions
from driftloop.controller.kinds.modelversion import approval, gates, tasks
from driftloop.controller.kinds.modelversion.against import Against, Baseline, NoBaseline, Unknown, against_of
from driftloop.controller.kinds.modelversion.evaluation import ATTEMPTS, Evaluation, evaluation_of, is_current
from driftloop.controller.kinds.modelversion.observed import Observed
from driftloop.controller.kinds.stage import Stage, lost_result
from driftloop.controller.pods import jobs
from driftloop.controller.pods.common import TaskTooLarge, missing_claim
from driftloop.controller.pods.outcome import (
    BENIGN,
    Broken,
    Lost,
    Running,
    delete_job,
    finished,
    finished_at,
    lost_pods,
)
from driftloop.controller.vocabulary import conditions
from driftloop.controller.vocabulary.labels import IN_USE, RETRY
from driftloop.controller.vocabulary.objects import field, labels
from driftloop.controller.vocabulary.plan import (
    Action,
    Apply,
    Create,
    Group,
    Key,
    Label,
    Obj,
    Plan,
    Settings,
    independent,
)
from driftloop.controller.vocabulary.reasons import Reason

RECHECK_SECONDS = 60.0
SETTLE_SECONDS = 10.0
AGAIN_AFTER = timedelta(minutes=1)  # before the second evaluation of a version that the API's checks left undecided
AGAIN_FACTOR = 5  # and longer before each further one
Step = steps.Step[ModelVersionPhase]


def decide(observed: Observed, settings: Settings, now: datetime) -> Plan:
    """What to do for the version now."""
    if observed.version["metadata"].get("deletionTimestamp"):
        return Plan()  # what it owns goes with it
    failed, wait = lost_pods(observed.pods, now)
    against = against_of(observed, settings, now)
    beside, services = (*failed, *_protection(against)), list(against.services)
    if not _settled(against):
        step = _step(against)
    elif observed.status.phase == "AwaitingApproval":
        step = approval.unproven(against, observed.status.gate_summary or "")
    else:
        status = observed.status.model_copy(update={"services": services}).dump()
        return Plan(beside=independent((*beside, *_needless(observed))), status=status, requeue_after=wait)
    retried = observed.annotations.get(RETRY) if step.phase in JUDGED else observed.status.retried
    step = replace(step, changes=step.changes | {"services": services, "retried": retried})
    plan = steps.to_plan(step, observed.version, observed.status, now, beside, wait)
    return replace(plan, beside=(Group((), ("services",)), *plan.beside))


def _settled(against: Against) -> bool:
    """Judged, against what it would replace now and as it would be served, and nobody asks for another try."""
    match against.observed.status.phase:
        case None | "Pending" | "Evaluating":
            return False
        case "Failed":
            return not against.wants_retry
        case "Rejected":
            return True
        case "AwaitingApproval":
            return not against.is_candidate or not against.is_compared or is_current(against)
        case "Approved":
            return not against.is_candidate or is_current(against)
        case never:
            assert_never(never)


def _protection(against: Against) -> tuple[Action, ...]:
    """The label by which the admission policy refuses to have it deleted."""
    observed, wanted = against.observed, "true" if against.services else None
    if labels(observed.version).get(IN_USE) == wanted:
        return ()
    return (Label(Key("ModelVersion", observed.namespace, observed.name), observed.uid, {IN_USE: wanted}),)


def _needless(observed: Observed) -> tuple[Action, ...]:
    """Stop what is still at work though all is judged: a Job whose engine can't start holds its pod until the deadline.

    Only once the judgement is written: nothing else would tell of it after a crash in between, and it would begin anew.
    """
    working = (job for job in observed.jobs if not finished(job))
    return tuple(delete_job(job) for job in working if not field(job, "metadata", "deletionTimestamp"))


def _step(against: Against) -> Step:
    match against.baseline:
        case Unknown(reason, message):
            return Step("Pending", conditions.stalled(reason, message), requeue_after=RECHECK_SECONDS)
        case Baseline() | NoBaseline() as baseline:
            evaluation = evaluation_of(against, baseline)
        case never:
            assert_never(never)
    step = _evaluated(evaluation, evaluation.latest) if evaluation.latest else _begun(evaluation, attempt=1)
    superseded = tuple(delete_job(job) for job in evaluation.superseded if not finished(job))
    return replace(step, beside=(*superseded, *step.beside))


def _begun(evaluation: Evaluation, attempt: int) -> Step:
    """The stable version is asked first, then the candidate: each by a pod of its own, one after the other."""
    observed = evaluation.observed
    match evaluation.baseline:
        case Baseline() as stable:
            artefacts = [observed.spec.artefact.uri, stable.artefact.uri]
        case NoBaseline():
            artefacts = [observed.spec.artefact.uri]
        case never:
            assert_never(never)
    items = [suite.uri for suite in observed.spec.evaluation.suites]
    if missing := missing_claim([*artefacts, tasks.storage_of(observed), *items], observed.claims):
        return Step("Pending", conditions.stalled(Reason.CLAIM_NOT_FOUND, missing), requeue_after=RECHECK_SECONDS)
    try:
        return _ask_in_turn(evaluation, attempt)
    except TaskTooLarge as error:
        return Step("Failed", conditions.stalled(Reason.TASK_TOO_LARGE, str(error)))


def _ask_in_turn(evaluation: Evaluation, attempt: int) -> Step:
    """Raises TaskTooLarge."""
    match evaluation.baseline:
        case Baseline() as stable if evaluation.answers_name is not None:
            return _ask_stable(evaluation, stable, attempt)
        case Baseline() | NoBaseline():
            return _create_evaluate(evaluation, None, attempt)
        case never:
            assert_never(never)


def _ask_stable(evaluation: Evaluation, stable: Baseline, attempt: int) -> Step:
    """Raises TaskTooLarge."""
    doing = f"{stable.status.version}, which the version is compared with, is asked first ({evaluation.on})"
    if evaluation.answers is None:
        body = tasks.answer_job(evaluation, stable)
        return _evaluating(doing, (_policy(evaluation), Create(body)))
    match evaluation.answers.outcome:
        case AnswerResult() as answers:
            return _create_evaluate(evaluation, answers, attempt)
        case Running() | Broken() | Lost() as outcome:
            return _unfinished(evaluation, evaluation.answers.job, outcome, doing)
        case never:
            assert_never(never)


def _create_evaluate(evaluation: Evaluation, answers: AnswerResult | None, attempt: int) -> Step:
    """Raises TaskTooLarge."""
    body = tasks.evaluate_job(evaluation, answers, attempt)
    return _evaluating(_comparing(evaluation, body), (_policy(evaluation), Create(body)))


def _evaluated(evaluation: Evaluation, latest: Stage[EvaluateResult]) -> Step:
    match latest.outcome:
        case EvaluateResult() as result:
            return _judged(evaluation, latest.job, result)
        case Running() | Broken() | Lost() as outcome:
            return _unfinished(evaluation, latest.job, outcome, _comparing(evaluation, latest.job))
        case never:
            assert_never(never)


def _comparing(evaluation: Evaluation, job: Obj) -> str:
    match tasks.compared_with(job):
        case BaselineStatus(version=version):
            stable = version
        case NoBaseline():
            stable = "nothing"
        case never:
            assert_never(never)
    return f"the version is being evaluated, compared with {stable} ({evaluation.on})"


def _unfinished(evaluation: Evaluation, job: Obj, outcome: Running | Broken | Lost, doing: str) -> Step:
    """A Job that runs still, or ended without a result to go on with."""
    match outcome:
        case Running() as running:
            return _underway(evaluation, running, doing)
        case Lost():
            return _evaluating(lost_result(job), (delete_job(job),), Reason.RESULT_LOST)
        case Broken(reason, message):
            return Step("Failed", conditions.stalled(reason, f"{message} ({evaluation.on})"))
        case never:
            assert_never(never)


def _evaluating(message: str, actions: tuple[Action, ...], reason: str = Reason.EVALUATING) -> Step:
    """What is created now, its policy first, or deleted."""
    return Step("Evaluating", conditions.progressing(reason, message), actions, requeue_after=SETTLE_SECONDS)


def _underway(evaluation: Evaluation, running: Running, doing: str) -> Step:
    """At work: its policy is kept as it was, and one that can't be written again stops nothing."""
    benign = running.reason in BENIGN
    reason, message = (Reason.EVALUATING, doing) if benign else (running.reason, f"{doing}: {running.message}")
    shown = conditions.progressing(reason, message)
    return Step("Evaluating", shown, beside=(_policy(evaluation),), requeue_after=SETTLE_SECONDS)


def _policy(evaluation: Evaluation) -> Apply:
    """What keeps others from its pods."""
    return Apply(jobs.evaluate_policy(evaluation.observed.version, evaluation.against.settings))


def _judged(evaluation: Evaluation, job: Obj, result: EvaluateResult) -> Step:
    try:
        evidence = Artefact(uri=result.uri, digest=result.digest)
    except ValidationError:
        message = f"the evaluation names {result.uri!r} as the place of its evidence: that is no storage URI"
        return Step("Failed", conditions.stalled(Reason.INVALID_RESULT, message))
    observed, compared = evaluation.observed, tasks.compared_with(job)
    judged = gates.judge(observed.spec, result, compared, _uses(observed))
    summary = gates.summary(judged)
    changes: dict[str, Any] = {
        "gates": judged,
        "gate_summary": summary,
        "baseline": gates.baseline_of(compared),
        "evidence": evidence,
        "engine": tasks.engine_of_evidence(job),
    }
    match gates.verdict(judged):
        case "Approved" as phase:
            return Step(phase, conditions.ready(Reason.APPROVED, summary), changes=changes)
        case "Unproven":
            step = approval.unproven(evaluation.against, summary)
            return replace(step, changes=changes | step.changes)
        case "Undecided":
            return _undecided(evaluation, job, summary, changes)
        case "Rejected" as phase:
            return Step(phase, conditions.stalled(Reason.REJECTED, summary), changes=changes)
        case never:
            assert_never(never)


def _undecided(evaluation: Evaluation, job: Obj, summary: str, changes: dict[str, Any]) -> Step:
    """Only the API's checks could not tell: another evaluation after a while, and after a few a person's word."""
    name, names = job["metadata"]["name"], evaluation.names
    attempt = names.index(name) + 1 if name in names else ATTEMPTS
    if attempt >= ATTEMPTS:
        message = f"{summary}, in {attempt} evaluations: annotate it {RETRY} with a new value for others"
        return Step("Failed", conditions.stalled(Reason.UNDECIDED, message), changes=changes)
    now = evaluation.against.now
    rest = finished_at(job, now) + AGAIN_AFTER * AGAIN_FACTOR ** (attempt - 1) - now
    if rest.total_seconds() <= 0:
        return replace(_begun(evaluation, attempt + 1), changes=changes)
    message = f"{summary}: evaluated again in a while, {attempt} of {ATTEMPTS} evaluations are done"
    step = Step("Evaluating", conditions.progressing(Reason.UNDECIDED, message), changes=changes)
    return replace(step, requeue_after=rest.total_seconds())


def _uses(observed: Observed) -> dict[str, int]:
    """By suite, the other versions that were judged by the very same items."""
    others = [
        {suite.get("digest") for suite in field(version, "spec", "evaluation", "suites") or []}
        for version in observed.versions
        if version["metadata"]["uid"] != observed.uid and versions.phase(version) in ("Approved", "Rejected")
    ]
    return {
        suite.name: sum(1 for digests in others if suite.digest in digests)
        for suite in observed.spec.evaluation.suites
        if suite.digest
    }
