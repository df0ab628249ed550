"""The decision on a ModelVersion: evaluate it, judge it, and protect it while it serves. Pure.

A judgement is final, with two exceptions: a version that may still be rolled out is evaluated again when another
version has become stable, and an Approved one also when a person requests it, as its evidence may be too old for a
service.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, assert_never

from pydantic import ValidationError

from driftloop.api.evaluation import asked_uris
from driftloop.api.inferenceservice import ServingPlan
from driftloop.api.modelversion import JUDGED, Artefact, BaselineStatus, ModelVersionPhase
from driftloop.contract.result import AnswerResult, EvaluateResult
from driftloop.controller.kinds import step as steps
from driftloop.controller.kinds import versions
from driftloop.controller.kinds.engines import obstacle
from driftloop.controller.kinds.groups import keep_together
from driftloop.controller.kinds.modelversion import approval, gates, tasks
from driftloop.controller.kinds.modelversion.anchor import Anchor, anchor_of, anchors_of
from driftloop.controller.kinds.modelversion.comparison import Baseline, Comparison, NoBaseline, Unknown, comparison_of
from driftloop.controller.kinds.modelversion.evaluation import ATTEMPTS, Evaluation, evaluation_of, is_current
from driftloop.controller.kinds.modelversion.looks import anchor_looks_of, looks_of, plan_of, uses_of
from driftloop.controller.kinds.modelversion.observed import Observed
from driftloop.controller.kinds.modelversion.storedanswers import stored_answers, to_store
from driftloop.controller.kinds.modelversion.tasks import Answers
from driftloop.controller.kinds.serving_memory import DoesNotFit, memory_plan
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
    serving_problem,
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
AGAIN_AFTER = timedelta(minutes=1)  # delay before the second evaluation if the API checks were inconclusive
AGAIN_FACTOR = 5  # factor by which the delay grows before each further evaluation
Step = steps.Step[ModelVersionPhase]


def decide(observed: Observed, settings: Settings, now: datetime) -> Plan:
    """Plan the next step of the version."""
    if observed.version["metadata"].get("deletionTimestamp"):
        return Plan()  # Kubernetes deletes the objects that it owns
    failed, wait = lost_pods(observed.pods, now)
    kept = keep_together(observed.groups, now)
    waits = [seconds for seconds in (wait, kept.requeue_after) if seconds is not None]
    wait = min(waits, default=None)
    comparison = comparison_of(observed, settings, now)
    beside, services = (*failed, *_protection(comparison)), list(comparison.services)
    if not _settled(comparison):
        step = _step(comparison)
    elif observed.status.phase == "AwaitingApproval":
        step = approval.unproven(comparison, observed.status.gate_summary or "")
    else:
        status = observed.status.model_copy(update={"services": services}).dump()
        needless = independent((*beside, *_delete_needless(observed)))
        return Plan(beside=(*kept.groups, *needless), status=status, requeue_after=wait)
    retried = observed.annotations.get(RETRY) if step.phase in JUDGED else observed.status.retried
    step = replace(step, changes=step.changes | {"services": services, "retried": retried})
    plan = steps.to_plan(step, observed.version, observed.status, now, beside, wait)
    return replace(plan, beside=(Group((), ("services",)), *kept.groups, *plan.beside))


def _settled(comparison: Comparison) -> bool:
    """Whether the version needs no further evaluation: its judgement is current, and no retry is requested."""
    match comparison.observed.status.phase:
        case None | "Pending" | "Evaluating":
            return False
        case "Failed":
            return not comparison.wants_retry
        case "Rejected":
            return True
        case "AwaitingApproval":
            return not comparison.is_candidate or not comparison.is_compared or is_current(comparison)
        case "Approved":
            return not comparison.is_candidate or (is_current(comparison) and not comparison.wants_retry)
        case never:
            assert_never(never)


def _protection(comparison: Comparison) -> tuple[Action, ...]:
    """Set or remove the label with which the admission policy refuses to delete a version in use."""
    observed = comparison.observed
    merged_onto = versions.adapters_at_work(observed.version, observed.adapters, observed.deployments)
    value = "true" if comparison.services or merged_onto or _is_anchor(observed) else None
    if labels(observed.version).get(IN_USE) == value:
        return ()
    return (Label(Key("ModelVersion", observed.namespace, observed.name), observed.uid, {IN_USE: value}),)


def _is_anchor(observed: Observed) -> bool:
    """Whether a stable version of the family was compared with this one as its anchor, as the next one will be."""
    names = {versions.stable_version(service, observed.deployments) for service in observed.services}
    stable = (version for version in observed.versions if version["metadata"]["name"] in names)
    return any(anchor.version == observed.name for version in stable if (anchor := anchors_of(version)))


def _delete_needless(observed: Observed) -> tuple[Action, ...]:
    """Delete the Jobs that still run after the judgement: one whose engine can't start runs until its deadline.

    They are deleted only after the judgement is in the status. Otherwise a crash between the two writes would lose the
    judgement, and the evaluation would start again.
    """
    working = (job for job in observed.jobs if not finished(job))
    return tuple(delete_job(job) for job in working if not field(job, "metadata", "deletionTimestamp"))


def _step(comparison: Comparison) -> Step:
    match comparison.baseline:
        case Unknown() as unknown:
            return _cannot_compare(unknown)
        case Baseline() | NoBaseline() as baseline:
            return _step_beside(comparison, baseline)
        case never:
            assert_never(never)


def _step_beside(comparison: Comparison, baseline: Baseline | NoBaseline) -> Step:
    match anchor_of(comparison.observed, baseline):
        case Unknown() as unknown:
            return _cannot_compare(unknown)
        case Anchor() | None as anchor:
            return _evaluation_step(evaluation_of(comparison, baseline, anchor))
        case never:
            assert_never(never)


def _cannot_compare(unknown: Unknown) -> Step:
    stalled = conditions.stalled(unknown.reason, unknown.message)
    return Step("Pending", stalled, requeue_after=RECHECK_SECONDS)


def _evaluation_step(evaluation: Evaluation) -> Step:
    step = _evaluate_step(evaluation, evaluation.latest) if evaluation.latest else _start(evaluation, attempt=1)
    superseded = tuple(delete_job(job) for job in evaluation.superseded if not finished(job))
    changes = {"plan": plan_of(evaluation)} | step.changes
    return replace(step, beside=(*superseded, *step.beside), changes=changes)


def _engine_fault(comparison: Comparison) -> str | None:
    """Why the engine can't run, or can't hold the version; None if nothing is known against it."""
    engine, observed = comparison.engine, comparison.observed
    if fault := obstacle(engine, comparison.settings):
        return fault
    match memory_plan(engine, observed.spec.model, observed.gpu_memory):
        case DoesNotFit(message):
            return f"it does not fit: {message}"
        case ServingPlan() | None:
            return None
        case never:
            assert_never(never)


def _start(evaluation: Evaluation, attempt: int) -> Step:
    """Start an attempt. Pods ask one after the other: the stable version, the anchor, the candidate."""
    observed = evaluation.observed
    match evaluation.baseline:
        case Baseline() as stable:
            artefacts = [observed.spec.artefact, stable.artefact]
        case NoBaseline():
            artefacts = [observed.spec.artefact]
        case never:
            assert_never(never)
    artefacts += [evaluation.anchor.artefact] if evaluation.anchor else []
    if fault := _engine_fault(evaluation.comparison):
        return Step("Pending", conditions.stalled(Reason.ENGINE_NOT_POSSIBLE, fault), requeue_after=RECHECK_SECONDS)
    asked = observed.spec.evaluation
    items = asked_uris(asked.suites, asked.contract)
    folders = [uri for artefact in artefacts for uri in (artefact.uri, *artefact.bases)]
    if missing := missing_claim([*folders, tasks.storage_of(observed), *items], observed.claims):
        return Step("Pending", conditions.stalled(Reason.CLAIM_NOT_FOUND, missing), requeue_after=RECHECK_SECONDS)
    try:
        return _ask_in_turn(evaluation, attempt)
    except TaskTooLarge as error:
        return Step("Failed", conditions.stalled(Reason.TASK_TOO_LARGE, str(error)))


def _ask_in_turn(evaluation: Evaluation, attempt: int) -> Step:
    """Ask the stable version if a suite needs its answers, else the candidate. Raises TaskTooLarge."""
    match evaluation.baseline:
        case Baseline() as stable if evaluation.answers_name is not None:
            return _ask_stable(evaluation, stable, attempt)
        case Baseline() | NoBaseline():
            return _ask_anchor(evaluation, None, attempt)
        case never:
            assert_never(never)


def _ask_stable(evaluation: Evaluation, stable: Baseline, attempt: int) -> Step:
    """Ask the stable version, and with its answers the others. Raises TaskTooLarge."""
    activity = (
        f"the stable version {stable.status.version} is asked first, for the comparison ({evaluation.engine_text})"
    )
    if evaluation.answers is None:
        body = tasks.answer_job(evaluation, stable)
        return _evaluating(activity, (_policy(evaluation), Create(body)))
    match evaluation.answers.outcome:
        case AnswerResult() as answers:
            return _ask_anchor(evaluation, answers, attempt)
        case Running() | Broken() | Lost() as outcome:
            return _without_result(evaluation, evaluation.answers.job, outcome, activity)
        case never:
            assert_never(never)


def _ask_anchor(evaluation: Evaluation, answers: AnswerResult | None, attempt: int) -> Step:
    """Ask the anchor if there is one, and then the candidate. Raises TaskTooLarge."""
    anchor = evaluation.anchor
    if anchor is None:
        return _create_evaluate(evaluation, Answers(answers), attempt)
    activity = f"the anchor {anchor.status.version} is asked, for the loss since then ({evaluation.engine_text})"
    if evaluation.anchor_answers is None:
        if stored := stored_answers(evaluation, anchor):
            return _with_anchor(evaluation, anchor, Answers(answers, stored), attempt)
        body = tasks.anchor_job(evaluation, anchor)
        return _evaluating(activity, (_policy(evaluation), Create(body)))
    match evaluation.anchor_answers.outcome:
        case AnswerResult() as of_anchor:
            return _with_anchor(evaluation, anchor, Answers(answers, of_anchor), attempt)
        case Broken(reason, message):
            lost = Broken(reason, f"the anchor {anchor.status.version} could not be asked: {message}")
            return _without_result(evaluation, evaluation.anchor_answers.job, lost, activity)
        case Running() | Lost() as outcome:
            return _without_result(evaluation, evaluation.anchor_answers.job, outcome, activity)
        case never:
            assert_never(never)


def _with_anchor(evaluation: Evaluation, anchor: Anchor, answers: Answers, attempt: int) -> Step:
    """Create the evaluate Job, and record where the anchor's answers are. Raises TaskTooLarge."""
    step = _create_evaluate(evaluation, answers, attempt)
    stored = to_store(evaluation, anchor, answers.anchor) if answers.anchor else None
    return replace(step, changes=step.changes | {"anchor_answers": stored})


def _create_evaluate(evaluation: Evaluation, answers: Answers, attempt: int) -> Step:
    """Create the evaluate Job. Raises TaskTooLarge."""
    body = tasks.evaluate_job(evaluation, answers, attempt, plan_of(evaluation))
    return _evaluating(_activity(evaluation, body), (_policy(evaluation), Create(body)))


def _evaluate_step(evaluation: Evaluation, latest: Stage[EvaluateResult]) -> Step:
    match latest.outcome:
        case EvaluateResult() as result:
            return _judge(evaluation, latest.job, result)
        case Running() | Broken() | Lost() as outcome:
            return _without_result(evaluation, latest.job, outcome, _activity(evaluation, latest.job))
        case never:
            assert_never(never)


def _activity(evaluation: Evaluation, job: Obj) -> str:
    match tasks.compared_with(job):
        case BaselineStatus(version=version):
            how = f"compared with {version}"
        case NoBaseline():
            how = "without a comparison"
        case never:
            assert_never(never)
    return f"the version is being evaluated, {how} ({evaluation.engine_text})"


def _without_result(evaluation: Evaluation, job: Obj, outcome: Running | Broken | Lost, activity: str) -> Step:
    """The step for a Job that still runs, or that ended without a usable result."""
    match outcome:
        case Running() as running:
            return _in_progress(evaluation, running, activity)
        case Lost():
            return _evaluating(lost_result(job), (delete_job(job),), Reason.RESULT_LOST)
        case Broken(reason, message):
            return Step("Failed", conditions.stalled(reason, f"{message} ({evaluation.engine_text})"))
        case never:
            assert_never(never)


def _evaluating(message: str, actions: tuple[Action, ...], reason: str = Reason.EVALUATING) -> Step:
    return Step("Evaluating", conditions.progressing(reason, message), actions, requeue_after=SETTLE_SECONDS)


def _in_progress(evaluation: Evaluation, running: Running, activity: str) -> Step:
    """The step for a running Job. Its policy exists already, so now a failed write of it stops nothing."""
    if running.reason in BENIGN:
        running = Running(Reason.EVALUATING, _waits_for_group(evaluation.observed))
    reason, message = running.reason, f"{activity}: {running.message}" if running.message else activity
    progressing = conditions.progressing(reason, message)
    return Step("Evaluating", progressing, beside=(_policy(evaluation),), requeue_after=SETTLE_SECONDS)


def _waits_for_group(observed: Observed) -> str:
    """Why the engine does not answer yet, if it is spread over several pods; empty if all of them run."""
    for group in observed.groups:
        if progress := group.progress:
            problem = serving_problem(list(group.workers))
            return f"{progress}: {problem.message}" if problem else progress
    return ""


def _policy(evaluation: Evaluation) -> Apply:
    comparison = evaluation.comparison
    return Apply(jobs.evaluate_policy(evaluation.observed.version, comparison.engine.nodes, comparison.settings))


def _judge(evaluation: Evaluation, job: Obj, result: EvaluateResult) -> Step:
    """Judge a finished evaluation by the gates."""
    try:
        evidence = Artefact(uri=result.uri, digest=result.digest)
    except ValidationError:
        message = f"the evaluation returned {result.uri!r} as the location of its evidence, which is not a storage URI"
        return Step("Failed", conditions.stalled(Reason.INVALID_RESULT, message))
    observed, compared = evaluation.observed, tasks.compared_with(job)
    plan = plan_of(evaluation)
    anchored = gates.Anchored(plan.anchor, anchor_looks_of(plan)) if plan.anchor else None
    judged = gates.judge(observed.spec, result, compared, uses_of(observed), looks_of(plan), anchored)
    summary = gates.summary(judged)
    changes: dict[str, Any] = {
        "gates": judged,
        "gate_summary": summary,
        "baseline": gates.baseline_of(compared),
        "evidence": evidence,
        "engine": tasks.engine_of_evidence(job),
        "evaluated": tasks.ended(job, evaluation.comparison.now),
    }
    match gates.verdict(judged):
        case "Approved" as phase:
            return Step(phase, conditions.ready(Reason.APPROVED, summary), changes=changes)
        case "Unproven":
            step = approval.unproven(evaluation.comparison, summary)
            return replace(step, changes=changes | step.changes)
        case "Undecided":
            return _undecided(evaluation, job, summary, changes)
        case "Rejected" as phase:
            return Step(phase, conditions.stalled(Reason.REJECTED, summary), changes=changes)
        case never:
            assert_never(never)


def _undecided(evaluation: Evaluation, job: Obj, summary: str, changes: dict[str, Any]) -> Step:
    """Only the API checks were inconclusive: evaluate again after a delay; after ATTEMPTS a person must request it."""
    name, names = job["metadata"]["name"], evaluation.names
    attempt = names.index(name) + 1 if name in names else ATTEMPTS
    if attempt >= ATTEMPTS:
        message = f"{summary}, in {attempt} evaluations: set the annotation {RETRY} to a new value to evaluate it again"
        return Step("Failed", conditions.stalled(Reason.UNDECIDED, message), changes=changes)
    now = evaluation.comparison.now
    wait = finished_at(job, now) + AGAIN_AFTER * AGAIN_FACTOR ** (attempt - 1) - now
    if wait.total_seconds() <= 0:
        return replace(_start(evaluation, attempt + 1), changes=changes)
    message = f"{summary}: it will be evaluated again; {attempt} of {ATTEMPTS} evaluations are done"
    step = Step("Evaluating", conditions.progressing(Reason.UNDECIDED, message), changes=changes)
    return replace(step, requeue_after=wait.total_seconds())
