"""The Jobs of an evaluation, with the tasks of their clients and the facts recorded on them. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, assert_never

from pydantic import ValidationError

from driftloop.api.modelversion import (
    AnchorStatus,
    BaselineStatus,
    EvaluationPlan,
    ModelArtefact,
    ModelVersionSpec,
    VersionEvaluation,
)
from driftloop.contract import task as tasks
from driftloop.contract.result import AnswerResult
from driftloop.contract.task import AnswerTask, EvaluateTask, EvaluationArm, ServeTask
from driftloop.contract.uris import join
from driftloop.controller.kinds.engines import engine_hash, task_fields
from driftloop.controller.kinds.modelversion.anchor import Anchor
from driftloop.controller.kinds.modelversion.comparison import Baseline, NoBaseline
from driftloop.controller.kinds.modelversion.evaluation import (
    Evaluation,
    anchor_key,
    answers_key,
    evaluate_task_of,
)
from driftloop.controller.kinds.modelversion.looks import anchor_looks_of, looks_of
from driftloop.controller.kinds.modelversion.observed import Observed
from driftloop.controller.pods import jobs
from driftloop.controller.pods.outcome import finished_at
from driftloop.controller.pods.serving import Arm
from driftloop.controller.vocabulary.conditions import parse_timestamp, timestamp
from driftloop.controller.vocabulary.labels import ENGINE, NO_BASELINE, SERVICE
from driftloop.controller.vocabulary.objects import annotations, field
from driftloop.controller.vocabulary.plan import Obj

_NO_TIMEOUT = 86_400  # seconds, for the proxy: the evaluation's client has its own timeout


@dataclass(frozen=True)
class Answers:
    """The stored answers that a candidate's are compared with."""

    stable: AnswerResult | None  # None if no suite compares
    anchor: AnswerResult | None = None  # None without an anchor


def answer_task(spec: ModelVersionSpec, arm: EvaluationArm, output: str) -> AnswerTask:
    """The task to ask the stable version, which `arm` serves, the items of all suites that compare."""
    return AnswerTask(
        family=spec.family,
        arm=arm,
        suites=[suite for suite in spec.evaluation.suites if suite.kind != "floor"],
        output=output,
        **_limits(spec.evaluation),
    )


def anchor_task(spec: ModelVersionSpec, arm: EvaluationArm, output: str) -> AnswerTask:
    """The task to ask the anchor, which `arm` serves, the items of the suites with totalDelta."""
    suites = [suite for suite in spec.evaluation.suites if suite.total_delta is not None]
    limits = _limits(spec.evaluation) | {"contract": None}  # only the stable version's requests count
    return AnswerTask(family=spec.family, arm=arm, suites=suites, output=output, **limits)


def evaluate_task(
    spec: ModelVersionSpec,
    candidate: EvaluationArm,
    baseline: tasks.Baseline | None,
    looks: Mapping[str, int],
    output: str,
) -> EvaluateTask:
    """The task to ask the version all items, and to compare its answers with those of the stable version."""
    return EvaluateTask(
        family=spec.family,
        candidate=candidate,
        baseline=baseline,
        suites=spec.evaluation.suites,
        looks=dict(looks),
        output=output,
        **_limits(spec.evaluation),
    )


def with_anchor(task: EvaluateTask, anchor: tasks.Baseline, looks: Mapping[str, int]) -> EvaluateTask:
    """The task, in which suites with totalDelta are compared with the anchor too."""
    return task.model_copy(update={"anchor": anchor, "anchor_looks": dict(looks)})


def compared(version: BaselineStatus | AnchorStatus, answers: AnswerResult | None) -> tasks.Baseline:
    """A version to compare with, and its stored answers."""
    return tasks.Baseline(
        version=version.version,
        digest=version.digest,
        answers=answers.uri if answers else None,
        answers_digest=answers.digest if answers else None,
    )


def answer_job(evaluation: Evaluation, stable: Baseline) -> Obj:
    """The Job that asks the stable version the items of all suites that compare. Raises TaskTooLarge."""
    observed, key = evaluation.observed, answers_key(evaluation.comparison, stable)
    served = _serve(evaluation, stable.status.version, stable.artefact)
    task = answer_task(observed.spec, _arm(served), join(_folder(observed), f"baseline-{key}"))
    name = jobs.answer_name(observed.version, key)
    return jobs.answer_job(observed.version, name, task, _run(evaluation, served, {SERVICE: stable.status.service}))


def anchor_job(evaluation: Evaluation, anchor: Anchor) -> Obj:
    """The Job that asks the anchor the items of the suites with totalDelta. Raises TaskTooLarge."""
    observed, key = evaluation.observed, anchor_key(evaluation.comparison, anchor)
    served = _serve(evaluation, anchor.status.version, anchor.artefact)
    task = anchor_task(observed.spec, _arm(served), join(_folder(observed), f"anchor-{key}"))
    name = jobs.answer_name(observed.version, key)
    return jobs.answer_job(observed.version, name, task, _run(evaluation, served, {}), jobs.ANCHOR)


def evaluate_job(evaluation: Evaluation, answers: Answers, attempt: int, plan: EvaluationPlan) -> Obj:
    """The Job that asks the version all items and compares its answers with the stored ones.

    `plan` has the numbers of the looks at the items. Raises TaskTooLarge.
    """
    observed, key = evaluation.observed, evaluation.key
    served = _serve(evaluation, observed.name, observed.spec.artefact)
    baseline: tasks.Baseline | None = None
    match evaluation.baseline:
        case Baseline() as stable:
            baseline, notes = compared(stable.status, answers.stable), {SERVICE: stable.status.service}
        case NoBaseline(why):
            notes = {NO_BASELINE: why}
        case never:
            assert_never(never)
    output = join(_folder(observed), key if attempt == 1 else f"{key}-{attempt}")
    task = evaluate_task(observed.spec, _arm(served), baseline, looks_of(plan), output)
    if evaluation.anchor:
        task = with_anchor(task, compared(evaluation.anchor.status, answers.anchor), anchor_looks_of(plan))
    name = jobs.evaluate_name(observed.version, key, attempt)
    notes[ENGINE] = engine_hash(evaluation.comparison.engine)
    return jobs.evaluate_job(observed.version, name, task, _run(evaluation, served, notes))


def storage_of(observed: Observed) -> str:
    """The folder for evidence: the one in the spec, else a folder beside the artefact."""
    if observed.spec.evaluation.storage:
        return observed.spec.evaluation.storage
    parent = observed.spec.artefact.uri.rstrip("/").rpartition("/")[0]
    # If the artefact is a whole claim or bucket, the folder is inside it. The manifest does not cover later files.
    return join(observed.spec.artefact.uri if parent.endswith("/") else parent, "evaluations")


def engine_of_evidence(job: Obj) -> str | None:
    """The hash of the engine with which an evaluate Job was created."""
    return annotations(job).get(ENGINE)


def ended(job: Obj, now: datetime) -> str:
    """When an evaluate Job ended. If its status has no end yet, its creation counts, so that no evidence looks new."""
    created = field(job, "metadata", "creationTimestamp")
    return timestamp(finished_at(job, parse_timestamp(created) if created else now))


def compared_with(job: Obj) -> BaselineStatus | NoBaseline:
    """The baseline with which an evaluate Job was created, or why there was none."""
    nothing = NoBaseline(annotations(job).get(NO_BASELINE) or "the family had no stable version")
    task = evaluate_task_of(job)
    if task is None or task.baseline is None:
        return nothing
    service = annotations(job).get(SERVICE)
    try:
        return BaselineStatus.model_validate(
            {"version": task.baseline.version, "digest": task.baseline.digest, "service": service}
        )
    except ValidationError:
        return nothing  # the annotation was removed; the digest gate then reports a comparison with the wrong version


def _folder(observed: Observed) -> str:
    return join(storage_of(observed), observed.uid)


def _limits(settings: VersionEvaluation) -> dict[str, Any]:
    """The fields of a client's task that limit the evaluation."""
    return {
        "max_tokens": settings.max_tokens,
        "reasoning_tags": tuple(settings.reasoning_tags) or None,
        "contract": settings.contract,
        "concurrency": settings.concurrency,
        "startup_timeout_seconds": settings.startup_timeout_seconds,
        "request_timeout_seconds": settings.request_timeout_seconds,
    }


def _run(evaluation: Evaluation, served: ServeTask, notes: dict[str, str]) -> jobs.EvaluationRun:
    comparison, spec = evaluation.comparison, evaluation.observed.spec
    arm = Arm(served, comparison.settings.server_image, comparison.engine, comparison.settings, spec.pod_overrides)
    return jobs.EvaluationRun(arm, spec.evaluation, notes)


def _serve(evaluation: Evaluation, version: str, artefact: ModelArtefact) -> ServeTask:
    """The task to serve one version as an InferenceService does, but without feedback."""
    observed = evaluation.observed
    return ServeTask(
        namespace=observed.namespace,
        service=observed.spec.family,
        service_uid=observed.uid,
        family=observed.spec.family,
        version=version,
        revision="evaluation",
        artefact_uri=artefact.uri,
        artefact_digest=artefact.digest,
        artefact_bases=tuple(artefact.bases),
        request_timeout_seconds=_NO_TIMEOUT,
        **task_fields(evaluation.comparison.engine, evaluation.comparison.settings),
    )


def _arm(served: ServeTask) -> EvaluationArm:
    return EvaluationArm(
        version=served.version,
        digest=served.artefact_digest,
        url=f"http://127.0.0.1:{served.api_port}",
        ready_url=f"http://127.0.0.1:{served.metrics_port}/readyz",
    )
