"""An evaluation of a version: which Jobs are wanted for it, and what became of those that are there. Pure.

The names of the Jobs hold what the evaluation is about: another baseline or engine is another evaluation.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import TypeVar, assert_never

from driftloop.api.engine import Engine
from driftloop.contract.result import AnswerResult, EvaluateResult
from driftloop.contract.task import EvaluateTask
from driftloop.controller.kinds.modelversion.against import Against, Baseline, NoBaseline, Unknown
from driftloop.controller.kinds.modelversion.observed import Observed
from driftloop.controller.kinds.stage import Stage, stage
from driftloop.controller.pods import jobs
from driftloop.controller.pods.outcome import outcome
from driftloop.controller.vocabulary.labels import RETRY
from driftloop.controller.vocabulary.plan import Obj

Result = TypeVar("Result")

ATTEMPTS = 3  # at an evaluation whose only doubt is the API's


@dataclass(frozen=True)
class Evaluation:
    """What is asked of a version, on what, and how far that has come."""

    against: Against  # the facts of this reconcile
    baseline: Baseline | NoBaseline  # what the version is compared with: the baseline of `against`, which is known
    key: str  # eight hex digits for what it is about: the baseline, the engine, and the retry that asks for it
    names: tuple[str, ...]  # of its evaluate Jobs, of one attempt after the other
    answers_name: str | None  # of the Job that asks the stable version; None where no suite compares
    latest: Stage[EvaluateResult] | None  # the evaluate Job that counts
    answers: Stage[AnswerResult] | None  # the Job that asks the stable version

    @property
    def observed(self) -> Observed:
        """The objects that were read."""
        return self.against.observed

    @property
    def superseded(self) -> tuple[Obj, ...]:
        """Jobs that this evaluation doesn't want."""
        wanted = {*self.names, self.answers_name, self.latest.job["metadata"]["name"] if self.latest else None}
        return tuple(job for job in self.observed.jobs if job["metadata"]["name"] not in wanted)

    @property
    def on(self) -> str:
        """For people: on what the version is asked, and who said so."""
        engine = self.against.engine
        gpus = f"{engine.gpus} GPU{'s' if engine.gpus > 1 else ''}" if engine.gpus else "no GPU"
        given = self.observed.spec.evaluation.engine is not None or bool(self.observed.services)
        guessed = "" if given else "; no InferenceService follows the family: evaluation.engine says another one"
        return f"engine {engine.type}, {gpus}{guessed}"


def evaluation_of(against: Against, baseline: Baseline | NoBaseline) -> Evaluation:
    """The evaluation that is wanted now."""
    observed = against.observed
    key = _hash(baseline.digest, engine_hash(against.engine), observed.annotations.get(RETRY))
    names = tuple(jobs.evaluate_name(observed.version, key, attempt) for attempt in range(1, ATTEMPTS + 1))
    answers_name = _answers_name(against, baseline)
    return Evaluation(
        against=against,
        baseline=baseline,
        key=key,
        names=names,
        answers_name=answers_name,
        latest=_stage(against, _latest(against, names), EvaluateResult),
        answers=_stage(against, _named(observed, answers_name), AnswerResult),
    )


def engine_hash(engine: Engine) -> str:
    """Eight hex digits for all of an engine that may change an answer."""
    return _hash(engine.model_dump_json(exclude={"resources"}))


def answers_key(baseline: Baseline, engine: Engine) -> str:
    """Eight hex digits for the stable version's answers: they serve every attempt and every retry."""
    return _hash(baseline.digest, engine_hash(engine))


def is_current(against: Against) -> bool:
    """Whether the version was judged against what serves now, on its engine. Where that can't be read, it was."""
    status = against.observed.status
    match against.baseline:
        case Unknown():
            return True
        case Baseline() | NoBaseline() as baseline:
            judged = status.baseline.digest if status.baseline else None
            return baseline.digest == judged and status.engine in (None, engine_hash(against.engine))
        case never:
            assert_never(never)


def _answers_name(against: Against, baseline: Baseline | NoBaseline) -> str | None:
    match baseline:
        case Baseline() if against.is_compared:
            return jobs.answer_name(against.observed.version, answers_key(baseline, against.engine))
        case Baseline() | NoBaseline():
            return None
        case never:
            assert_never(never)


def _latest(against: Against, names: tuple[str, ...]) -> Obj | None:
    """The evaluate Job that counts: of a candidate, or where another try is asked for, the one that is wanted now.

    The others keep the last judgement that they got.
    """
    observed = against.observed
    if against.is_candidate or against.wants_retry:
        wanted = [job for name in names if (job := _named(observed, name)) is not None]
        return wanted[-1] if wanted else None
    evaluations = [job for job in observed.jobs if isinstance(jobs.task_of(job), EvaluateTask)]
    return max(evaluations, key=_age, default=None)


def _stage(against: Against, job: Obj | None, expected: type[Result]) -> Stage[Result] | None:
    if job is None:
        return None
    return stage(job, outcome(job, against.observed.pods, jobs.EVALUATE, against.now), expected)


def _named(observed: Observed, name: str | None) -> Obj | None:
    return next((job for job in observed.jobs if job["metadata"]["name"] == name), None)


def _age(job: Obj) -> tuple[str, str]:
    return str(job["metadata"].get("creationTimestamp")), job["metadata"]["name"]


def _hash(*parts: str | None) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]
