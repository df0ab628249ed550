"""ModelVersion: evaluate, judge, and protect what serves. Pure.

A judgement stands, but for a version that may still be rolled out: when what it would replace has changed since, it is
evaluated again, against that.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError

from driftloop.api.engine import Engine
from driftloop.api.modelversion import Artefact
from driftloop.contract.result import AnswerResult, EvaluateResult
from driftloop.contract.task import EvaluateTask
from driftloop.controller.kinds import step, versions
from driftloop.controller.kinds.modelversion import approval, evaluation, gates
from driftloop.controller.kinds.modelversion.baseline import (
    Baseline,
    NoBaseline,
    Unknown,
    baseline,
    digest_of,
    engine_of,
    is_candidate,
    is_compared,
)
from driftloop.controller.kinds.modelversion.observed import JUDGED, Observed, Phase
from driftloop.controller.kinds.step import to_plan
from driftloop.controller.pods import jobs
from driftloop.controller.pods.common import TaskTooLarge, missing_claim
from driftloop.controller.pods.outcome import (
    BENIGN,
    Broken,
    Done,
    Lost,
    Outcome,
    Running,
    delete_job,
    finished,
    finished_at,
    lost_pods,
    outcome,
)
from driftloop.controller.vocabulary import conditions
from driftloop.controller.vocabulary.labels import IN_USE, RETRY
from driftloop.controller.vocabulary.plan import Action, Apply, Create, Key, Label, Obj, Plan, Settings
from driftloop.controller.vocabulary.reasons import Reason

RECHECK_SECONDS = 60.0
SETTLE_SECONDS = 10.0
AGAIN_AFTER = timedelta(minutes=1)  # before the second evaluation of a version that the API's checks left undecided
AGAIN_FACTOR = 5  # and longer before each further one
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
    retried = observed.annotations.get(RETRY) if found.phase in JUDGED else observed.status.retried
    found = replace(found, changes=found.changes | {"services": services, "retried": retried})
    return to_plan(found, observed.version, observed.status, now, (*failed, *protection), wait)


def _settled(observed: Observed) -> bool:
    """Judged, against what it would replace now and as it would be served, and nobody asks for another try."""
    status = observed.status
    if status.phase not in JUDGED:
        return False
    if status.phase == "Failed":
        return not _is_asked_again(observed)
    if status.phase == "Rejected" or not is_candidate(observed):
        return True
    if status.phase == "AwaitingApproval" and not is_compared(observed.spec):
        return True
    found = baseline(observed)
    if isinstance(found, Unknown):
        return True
    engine = evaluation.engine_hash(engine_of(observed))
    same_baseline = digest_of(found) == (status.baseline.digest if status.baseline else None)
    return same_baseline and status.engine in (None, engine)


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
    plan = _Evaluation(observed, against, engine_of(observed), settings, now)
    job = _latest(plan)
    found = _evaluated(plan, job) if job else _begun(plan, attempt=1)
    wanted = [*plan.names, plan.answers_name]
    superseded = tuple(
        delete_job(other)
        for other in observed.jobs
        if other is not job and other["metadata"]["name"] not in wanted and not finished(other)
    )
    return replace(found, actions=(*superseded, *found.actions))


@dataclass(frozen=True)
class _Evaluation:
    """What a version is evaluated against, and on."""

    observed: Observed
    against: Baseline | NoBaseline
    engine: Engine
    settings: Settings
    now: datetime

    @property
    def names(self) -> list[str]:
        """Of its evaluate Jobs, of one attempt after the other."""
        return evaluation.evaluation_names(self.observed, self.against, self.engine)

    @property
    def answers_name(self) -> str | None:
        """Of the Job that asks the stable version; None where no suite compares."""
        if not isinstance(self.against, Baseline) or not is_compared(self.observed.spec):
            return None
        return evaluation.answer_job_name(self.observed, self.against, self.engine)

    def job(self, name: str | None) -> Obj | None:
        """The Job of that name."""
        return next((job for job in self.observed.jobs if job["metadata"]["name"] == name), None)

    def policy(self) -> Apply:
        """What keeps others from its pods."""
        return Apply(jobs.evaluate_policy(self.observed.version, self.settings))

    @property
    def on(self) -> str:
        """For people: on what it runs."""
        return evaluation.running_on(self.observed, self.engine)


def _latest(plan: _Evaluation) -> Obj | None:
    """The evaluate Job that counts: of a candidate, or where another try is asked for, the one that is wanted now.

    The others keep the last judgement that they got.
    """
    observed = plan.observed
    if is_candidate(observed) or _is_asked_again(observed):
        exact = [job for name in plan.names if (job := plan.job(name)) is not None]
        return exact[-1] if exact else None
    evaluations = [job for job in observed.jobs if isinstance(jobs.task_of(job), EvaluateTask)]
    return max(evaluations, key=lambda job: (str(job["metadata"].get("creationTimestamp")), _name(job)), default=None)


def _is_asked_again(observed: Observed) -> bool:
    """Whether the annotation has a word that was not followed yet."""
    return observed.annotations.get(RETRY) not in (None, observed.status.retried)


def _name(job: Obj) -> str:
    return str(job["metadata"]["name"])


def _begun(plan: _Evaluation, attempt: int) -> Step:
    """The stable version is asked first, then the candidate: each by a pod of its own, one after the other."""
    observed, against = plan.observed, plan.against
    artefacts = [against.artefact.uri] if isinstance(against, Baseline) else []
    items = [suite.uri for suite in observed.spec.evaluation.suites]
    uris = [observed.spec.artefact.uri, evaluation.storage_of(observed), *artefacts, *items]
    if missing := missing_claim(uris, observed.claims):
        return Step("Pending", conditions.stalled(Reason.CLAIM_NOT_FOUND, missing), requeue_after=RECHECK_SECONDS)
    try:
        return _asked_in_turn(plan, attempt)
    except TaskTooLarge as error:
        return Step("Failed", conditions.stalled(Reason.TASK_TOO_LARGE, str(error)))


def _asked_in_turn(plan: _Evaluation, attempt: int) -> Step:
    """Raises TaskTooLarge."""
    answers: AnswerResult | None = None
    if isinstance(plan.against, Baseline) and plan.answers_name is not None:
        asked = plan.job(plan.answers_name)
        if asked is None:
            body = evaluation.answer_job(plan.observed, plan.against, plan.engine, plan.settings)
            return _evaluating(plan, _answering(plan), (plan.policy(), Create(body)))
        found = outcome(asked, plan.observed.pods, jobs.EVALUATE, plan.now)
        if not isinstance(found, Done) or not isinstance(found.result, AnswerResult):
            return _unfinished(plan, asked, found, _answering(plan))
        answers = found.result
    body = evaluation.evaluate_job(plan.observed, plan.against, answers, plan.engine, attempt, plan.settings)
    return _evaluating(plan, _comparing(plan, body), (plan.policy(), Create(body)))


def _answering(plan: _Evaluation) -> str:
    stable = plan.against.status.version if isinstance(plan.against, Baseline) else "nothing"
    return f"{stable}, which the version is compared with, is asked first ({plan.on})"


def _comparing(plan: _Evaluation, job: Obj) -> str:
    compared = evaluation.compared_with(job)
    return f"the version is being evaluated, compared with {compared.version if compared else 'nothing'} ({plan.on})"


def _evaluating(plan: _Evaluation, message: str, actions: tuple[Action, ...], reason: str = Reason.EVALUATING) -> Step:
    """What is created now, its policy first, or deleted."""
    told = conditions.progressing(reason, message)
    return Step("Evaluating", told, actions, requeue_after=SETTLE_SECONDS)


def _underway(plan: _Evaluation, message: str, reason: str = Reason.EVALUATING) -> Step:
    """At work: its policy is kept as it was, and one that can't be written again stops nothing."""
    told = conditions.progressing(reason, message)
    return Step("Evaluating", told, beside=(plan.policy(),), requeue_after=SETTLE_SECONDS)


def _evaluated(plan: _Evaluation, job: Obj) -> Step:
    found = outcome(job, plan.observed.pods, jobs.EVALUATE, plan.now)
    if isinstance(found, Done) and isinstance(found.result, EvaluateResult):
        return _judged(plan, job, found.result)
    return _unfinished(plan, job, found, _comparing(plan, job))


def _unfinished(plan: _Evaluation, job: Obj, found: Outcome, doing: str) -> Step:
    """A Job that runs still, or ended without a result to go on with."""
    if isinstance(found, Running):
        if found.reason in BENIGN:
            return _underway(plan, doing)
        return _underway(plan, f"{doing}: {found.message}", found.reason)
    if isinstance(found, Lost):
        message = f"Job {job['metadata']['name']} ended, its result is gone with its pod: it runs again"
        return _evaluating(plan, message, (delete_job(job),), Reason.RESULT_LOST)
    # A Job whose engine can't start would hold its pod until the deadline.
    release = () if finished(job) else (delete_job(job),)
    if isinstance(found, Broken):
        return Step("Failed", conditions.stalled(found.reason, f"{found.message} ({plan.on})"), release)
    message = f"Job {job['metadata']['name']} ended with the result of another stage"
    return Step("Failed", conditions.stalled(Reason.INVALID_RESULT, message), release)


def _judged(plan: _Evaluation, job: Obj, result: EvaluateResult) -> Step:
    observed = plan.observed
    try:
        evidence = Artefact(uri=result.uri, digest=result.digest)
    except ValidationError:
        message = f"the evaluation names {result.uri!r} as the place of its evidence: that is no storage URI"
        return Step("Failed", conditions.stalled(Reason.INVALID_RESULT, message))
    compared = evaluation.compared_with(job)
    judged = gates.judge(observed.spec, result, compared, evaluation.why_no_baseline(job), _uses(observed))
    verdict, summary = gates.verdict(judged), gates.summary(judged)
    changes: dict[str, Any] = {"gates": judged, "gate_summary": summary, "baseline": compared, "evidence": evidence}
    changes["engine"] = evaluation.engine_of_evidence(job)
    match verdict:
        case "Approved":
            return Step(verdict, conditions.ready(Reason.APPROVED, summary), changes=changes)
        case "Unproven":
            found = approval.unproven(observed, summary)
            return replace(found, changes=changes | found.changes)
        case "Undecided":
            return _undecided(plan, job, summary, changes)
        case "Rejected":
            return Step(verdict, conditions.stalled(Reason.REJECTED, summary), changes=changes)


def _undecided(plan: _Evaluation, job: Obj, summary: str, changes: dict[str, Any]) -> Step:
    """Only the API's checks could not tell: another evaluation after a while, and after a few a person's word."""
    name = job["metadata"]["name"]
    attempt = plan.names.index(name) + 1 if name in plan.names else evaluation.ATTEMPTS
    if attempt >= evaluation.ATTEMPTS:
        message = f"{summary}, in {attempt} evaluations: annotate it {RETRY} with a new value for others"
        return Step("Failed", conditions.stalled(Reason.UNDECIDED, message), changes=changes)
    rest = finished_at(job, plan.now) + AGAIN_AFTER * AGAIN_FACTOR ** (attempt - 1) - plan.now
    if rest.total_seconds() <= 0:
        return replace(_begun(plan, attempt + 1), changes=changes)
    message = f"{summary}: evaluated again in a while, {attempt} of {evaluation.ATTEMPTS} evaluations are done"
    step = Step("Evaluating", conditions.progressing(Reason.UNDECIDED, message), changes=changes)
    return replace(step, requeue_after=rest.total_seconds())


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
