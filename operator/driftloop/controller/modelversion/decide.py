"""ModelVersion: evaluate, judge, and protect what serves. Pure.

A judgement stands, but for a version that may still be rolled out: when what it would replace has changed since, it is
evaluated again, against that.
"""

from dataclasses import replace
from datetime import datetime

from pydantic import ValidationError

from driftloop.api.modelversion import Artefact, BaselineStatus
from driftloop.contract.names import IN_USE
from driftloop.contract.result import EvaluateResult
from driftloop.controller import conditions, step, versions
from driftloop.controller.core import Action, Apply, Create, Key, Label, Obj, Plan, Settings
from driftloop.controller.modelversion import approval, evaluation, gates
from driftloop.controller.modelversion.baseline import (
    Baseline,
    NoBaseline,
    Unknown,
    baseline,
    digest_of,
    engine_of,
    is_candidate,
    is_compared,
)
from driftloop.controller.modelversion.observed import JUDGED, Observed, Phase
from driftloop.controller.pods import jobs
from driftloop.controller.pods.common import TaskTooLarge, missing_claim
from driftloop.controller.pods.outcome import (
    BENIGN,
    Broken,
    Done,
    Lost,
    Running,
    delete_job,
    finished,
    lost_pods,
    outcome,
)
from driftloop.controller.reasons import Reason
from driftloop.controller.step import to_plan

RECHECK_SECONDS = 60.0
SETTLE_SECONDS = 10.0
Step = step.Step[Phase]


def decide(observed: Observed, settings: Settings, now: datetime) -> Plan:
    """What to do for the version now."""
    if observed.version["metadata"].get("deletionTimestamp"):
        return Plan()  # what it owns goes with it
    failed, wait = lost_pods(observed.pods, now)
    services = versions.services_of(observed.name, observed.deployments)
    protection = _protection(observed, bool(services))
    if not _settled(observed):
        found = _step(observed, settings, now)
    elif observed.status.phase == "AwaitingApproval":
        found = approval.unproven(observed, observed.status.gate_summary or "")
    else:
        status = observed.status.model_copy(update={"services": services}).dump()
        return Plan((*failed, *protection), status, requeue_after=wait)
    found = replace(found, changes=found.changes | {"services": services})
    return to_plan(found, observed.version, observed.status, now, (*failed, *protection), wait)


def _settled(observed: Observed) -> bool:
    """Judged, and against what it would replace now."""
    if observed.status.phase not in JUDGED:
        return False
    if observed.status.phase not in ("Approved", "AwaitingApproval") or not is_candidate(observed):
        return True
    if observed.status.phase == "AwaitingApproval" and not is_compared(observed.spec):
        return True
    found = baseline(observed)
    judged = observed.status.baseline.digest if observed.status.baseline else None
    return isinstance(found, Unknown) or digest_of(found) == judged


def _protection(observed: Observed, in_use: bool) -> tuple[Action, ...]:
    """The label by which the admission policy refuses to have it deleted."""
    wanted = "true" if in_use else None
    if (observed.version["metadata"].get("labels") or {}).get(IN_USE) == wanted:
        return ()
    return (Label(Key("ModelVersion", observed.namespace, observed.name), {IN_USE: wanted}),)


def _step(observed: Observed, settings: Settings, now: datetime) -> Step:
    against = baseline(observed)
    if isinstance(against, Unknown):
        return Step("Pending", conditions.stalled(against.reason, against.message), requeue_after=RECHECK_SECONDS)
    job = _evaluation(observed, against)
    if job is None:
        return _begun(observed, against, settings)
    superseded = tuple(delete_job(other) for other in observed.jobs if other is not job and not finished(other))
    found = _evaluated(observed, job, settings, now)
    return replace(found, actions=(*superseded, *found.actions))


def _evaluation(observed: Observed, against: Baseline | NoBaseline) -> Obj | None:
    """The evaluate Job that counts: a candidate's is the one against what it would replace now."""
    wanted = jobs.evaluate_name(observed.version, digest_of(against))
    exact = next((job for job in observed.jobs if job["metadata"]["name"] == wanted), None)
    if exact is not None or is_candidate(observed):
        return exact
    return max(observed.jobs, key=lambda job: str(job["metadata"].get("creationTimestamp")), default=None)


def _begun(observed: Observed, against: Baseline | NoBaseline, settings: Settings) -> Step:
    artefacts = [against.artefact.uri] if isinstance(against, Baseline) else []
    items = [suite.uri for suite in observed.spec.evaluation.suites]
    uris = [observed.spec.artefact.uri, evaluation.storage_of(observed), *artefacts, *items]
    if missing := missing_claim(uris, observed.claims):
        return Step("Pending", conditions.stalled(Reason.CLAIM_NOT_FOUND, missing), requeue_after=RECHECK_SECONDS)
    try:
        body = evaluation.evaluate_job(observed, against, engine_of(observed), settings)
    except TaskTooLarge as error:
        return Step("Failed", conditions.stalled(Reason.TASK_TOO_LARGE, str(error)))
    actions = (Apply(jobs.evaluate_policy(observed.version, settings)), Create(body))
    message = _evaluating(against.status if isinstance(against, Baseline) else None)
    return Step("Evaluating", conditions.progressing(Reason.EVALUATING, message), actions, SETTLE_SECONDS)


def _evaluated(observed: Observed, job: Obj, settings: Settings, now: datetime) -> Step:
    found = outcome(job, observed.pods, jobs.EVALUATE, now)
    if isinstance(found, Done) and isinstance(found.result, EvaluateResult):
        return _judged(observed, job, found.result)
    if isinstance(found, Running):
        policy = Apply(jobs.evaluate_policy(observed.version, settings))
        benign, message = found.reason in BENIGN, _evaluating(evaluation.compared_with(job))
        reason = Reason.EVALUATING if benign else found.reason
        message = message if benign else f"{message}: {found.message}"
        return Step("Evaluating", conditions.progressing(reason, message), (policy,), SETTLE_SECONDS)
    if isinstance(found, Lost):
        message = f"Job {job['metadata']['name']} ended, its result is gone with its pod: it runs again"
        again = conditions.progressing(Reason.RESULT_LOST, message)
        return Step("Evaluating", again, (delete_job(job),), SETTLE_SECONDS)
    # A Job whose engine can't start would hold its pod until the deadline.
    release = () if finished(job) else (delete_job(job),)
    if isinstance(found, Broken):
        return Step("Failed", conditions.stalled(found.reason, found.message), release)
    message = f"Job {job['metadata']['name']} ended with the result of another stage"
    return Step("Failed", conditions.stalled(Reason.INVALID_RESULT, message), release)


def _evaluating(compared: BaselineStatus | None) -> str:
    return f"the version is being evaluated, compared with {compared.version if compared else 'nothing'}"


def _judged(observed: Observed, job: Obj, result: EvaluateResult) -> Step:
    try:
        evidence = Artefact(uri=result.uri, digest=result.digest)
    except ValidationError:
        message = f"the evaluation names {result.uri!r} as the place of its evidence: that is no storage URI"
        return Step("Failed", conditions.stalled(Reason.INVALID_RESULT, message))
    compared = evaluation.compared_with(job)
    judged = gates.judge(observed.spec, result, compared, evaluation.why_no_baseline(job), _uses(observed))
    verdict, summary = gates.verdict(judged), gates.summary(judged)
    changes = {"gates": judged, "gate_summary": summary, "baseline": compared, "evidence": evidence}
    match verdict:
        case "Approved":
            return Step(verdict, conditions.ready(Reason.APPROVED, summary), changes=changes)
        case "Unproven":
            found = approval.unproven(observed, summary)
            return replace(found, changes=changes | found.changes)
        case "Undecided":
            return Step("Failed", conditions.stalled(Reason.UNDECIDED, summary), changes=changes)
        case "Rejected":
            return Step(verdict, conditions.stalled(Reason.REJECTED, summary), changes=changes)


def _uses(observed: Observed) -> dict[str, int]:
    """By suite, the other versions that were judged by the very same items."""
    others = [
        {suite.get("digest") for suite in ((version.get("spec") or {}).get("evaluation") or {}).get("suites") or []}
        for version in observed.versions
        if version["metadata"]["uid"] != observed.uid and versions.phase(version) in ("Approved", "Rejected")
    ]
    return {
        suite.name: sum(1 for digests in others if suite.digest in digests)
        for suite in observed.spec.evaluation.suites
        if suite.digest
    }
