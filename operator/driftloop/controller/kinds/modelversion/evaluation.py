"""An evaluation of a version: which Jobs it needs, and the outcomes of the existing ones. Pure.

The name of a Job contains a hash of baseline, anchor and engine, because other ones need a new evaluation.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import TypeVar, assert_never

from driftloop.contract.result import AnswerResult, EvaluateResult
from driftloop.contract.task import AnswerTask, DoorTask, EvaluateTask, PrepareTask, ServeTask, TrainTask
from driftloop.controller.kinds.engines import engine_hash
from driftloop.controller.kinds.modelversion.anchor import Anchor
from driftloop.controller.kinds.modelversion.comparison import Baseline, Comparison, NoBaseline, Unknown
from driftloop.controller.kinds.modelversion.observed import Observed
from driftloop.controller.kinds.stage import Stage, stage
from driftloop.controller.pods import jobs
from driftloop.controller.pods.outcome import Broken, Lost, Running, outcome
from driftloop.controller.vocabulary.labels import RETRY
from driftloop.controller.vocabulary.plan import Obj

Result = TypeVar("Result")

ATTEMPTS = 3  # evaluations of a version for which only the API checks were inconclusive


@dataclass(frozen=True)
class Evaluation:
    """The evaluation that a version needs now, and how far it is."""

    comparison: Comparison  # the facts of this reconcile
    baseline: Baseline | NoBaseline  # the baseline in `comparison`, which is not Unknown here
    anchor: Anchor | None  # from which suites with totalDelta count the loss
    key: str  # eight hex digits: a hash of baseline, anchor, engine and retry annotation
    names: tuple[str, ...]  # names of the evaluate Jobs, one per attempt
    answers_name: str | None  # name of the answer Job; None if no suite compares
    latest: Stage[EvaluateResult] | None  # the evaluate Job that counts
    answers: Stage[AnswerResult] | None  # the answer Job
    anchor_name: str | None  # name of the answer Job of the anchor; None without one. If it is the stable version: its
    anchor_answers: Stage[AnswerResult] | None  # that Job

    @property
    def observed(self) -> Observed:
        """The objects that were read."""
        return self.comparison.observed

    @property
    def superseded(self) -> tuple[Obj, ...]:
        """Jobs that this evaluation does not need."""
        needed = {
            *self.names,
            self.answers_name,
            self.anchor_name,
            self.latest.job["metadata"]["name"] if self.latest else None,
        }
        return tuple(job for job in self.observed.jobs if job["metadata"]["name"] not in needed)

    @property
    def engine_text(self) -> str:
        """The engine, for a message; with advice if it is the default engine."""
        engine = self.comparison.engine
        gpus = f"{engine.gpus} GPU{'s' if engine.gpus > 1 else ''}" if engine.gpus else "no GPU"
        gpus += f" in each of {engine.nodes} pods" if engine.nodes > 1 else ""
        chosen = self.observed.spec.evaluation.engine is not None or bool(self.observed.services)
        advice = "; no InferenceService follows the family: set evaluation.engine to use another engine"
        return f"engine {engine.type}, {gpus}{'' if chosen else advice}"


def evaluation_of(comparison: Comparison, baseline: Baseline | NoBaseline, anchor: Anchor | None = None) -> Evaluation:
    """The evaluation that the version needs now, with the outcomes of its Jobs."""
    observed = comparison.observed
    key = _hash(
        baseline.digest,
        engine_hash(comparison.engine),
        observed.annotations.get(RETRY),
        *([anchor.digest] if anchor else []),
    )
    names = tuple(jobs.evaluate_name(observed.version, key, attempt) for attempt in range(1, ATTEMPTS + 1))
    answers_name = _answers_name(comparison, baseline)
    anchor_name = _anchor_name(comparison, baseline, anchor, answers_name) if anchor else None
    return Evaluation(
        comparison=comparison,
        baseline=baseline,
        anchor=anchor,
        key=key,
        names=names,
        answers_name=answers_name,
        latest=_stage(comparison, _latest(comparison, names), EvaluateResult),
        answers=_stage(comparison, _named(observed, answers_name), AnswerResult),
        anchor_name=anchor_name,
        anchor_answers=_stage(comparison, _named(observed, anchor_name), AnswerResult),
    )


def answers_key(comparison: Comparison, baseline: Baseline) -> str:
    """Eight hex digits that identify the stable version's answers."""
    return _shared_key(comparison, baseline.digest, engine_hash(comparison.engine))


def anchor_key(comparison: Comparison, anchor: Anchor) -> str:
    """Eight hex digits that identify the anchor's answers."""
    return _shared_key(comparison, "anchor", anchor.digest, engine_hash(comparison.engine))


def _shared_key(comparison: Comparison, *parts: str) -> str:
    """A hash that all attempts and retries share. If its answer Job has failed, a retry has one of its own."""
    observed, retry = comparison.observed, comparison.observed.annotations.get(RETRY)
    shared, own = _hash(*parts), _hash(*parts, retry)
    if retry is None:
        return shared
    if _named(observed, jobs.answer_name(observed.version, own)):
        return own
    answers = _stage(comparison, _named(observed, jobs.answer_name(observed.version, shared)), AnswerResult)
    return own if answers and _has_failed(answers) else shared


def _has_failed(stage: Stage[AnswerResult]) -> bool:
    match stage.outcome:
        case Broken():
            return True
        case AnswerResult() | Running() | Lost():
            return False
        case never:
            assert_never(never)


def is_current(comparison: Comparison) -> bool:
    """Whether the version was judged against the current baseline and engine. True if the baseline can't be read."""
    status = comparison.observed.status
    match comparison.baseline:
        case Unknown():
            return True
        case Baseline() | NoBaseline() as baseline:
            judged = status.baseline.digest if status.baseline else None
            return baseline.digest == judged and status.engine in (None, engine_hash(comparison.engine))
        case never:
            assert_never(never)


def _answers_name(comparison: Comparison, baseline: Baseline | NoBaseline) -> str | None:
    match baseline:
        case Baseline() if comparison.is_compared:
            return jobs.answer_name(comparison.observed.version, answers_key(comparison, baseline))
        case Baseline() | NoBaseline():
            return None
        case never:
            assert_never(never)


def _anchor_name(
    comparison: Comparison, baseline: Baseline | NoBaseline, anchor: Anchor, answers_name: str | None
) -> str | None:
    """The Job that asks the anchor. If it is the stable version, it is asked once."""
    match baseline:
        case Baseline() as stable if stable.digest == anchor.digest:
            return answers_name
        case Baseline() | NoBaseline():
            return jobs.answer_name(comparison.observed.version, anchor_key(comparison, anchor))
        case never:
            assert_never(never)


def _latest(comparison: Comparison, names: tuple[str, ...]) -> Obj | None:
    """The evaluate Job that counts.

    For a candidate, or if a retry is requested, it is the latest Job of this evaluation. Any other version keeps its
    judgement, from its newest evaluate Job.
    """
    observed = comparison.observed
    if comparison.is_candidate or comparison.wants_retry:
        existing = [job for name in names if (job := _named(observed, name)) is not None]
        return existing[-1] if existing else None
    evaluations = [job for job in observed.jobs if evaluate_task_of(job)]
    return max(evaluations, key=_age, default=None)


def evaluate_task_of(job: Obj) -> EvaluateTask | None:
    """The task of an evaluate Job; None for another Job, or if it does not parse."""
    match jobs.task_of(job):
        case EvaluateTask() as task:
            return task
        case PrepareTask() | TrainTask() | AnswerTask() | ServeTask() | DoorTask() | None:
            return None
        case never:
            assert_never(never)


def _stage(comparison: Comparison, job: Obj | None, expected: type[Result]) -> Stage[Result] | None:
    if job is None:
        return None
    return stage(job, outcome(job, comparison.observed.pods, jobs.EVALUATE, comparison.now), expected)


def _named(observed: Observed, name: str | None) -> Obj | None:
    return next((job for job in observed.jobs if job["metadata"]["name"] == name), None)


def _age(job: Obj) -> tuple[str, str]:
    return str(job["metadata"].get("creationTimestamp")), job["metadata"]["name"]


def _hash(*parts: str | None) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]
