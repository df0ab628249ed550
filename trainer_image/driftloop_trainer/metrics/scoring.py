"""The metric of a suite, ready to score answers."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import assert_never

from driftloop.api.metric import Metric
from driftloop.api.suite import SuiteSpec
from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.data.items import Item
from driftloop_trainer.metrics.exact import contains, exact
from driftloop_trainer.metrics.numeric import last_number, numeric
from driftloop_trainer.metrics.patterns import BadPattern, compiled, extracted, matched
from driftloop_trainer.metrics.similarity import chrf, rouge_l, words
from driftloop_trainer.metrics.structured import BadSchema, Structure

Score = Callable[[str, str], float]  # of a completion and an answer
Fault = Callable[[str], str | None]  # why no answer could be compared with a completion


@dataclass(frozen=True)
class Scorer:
    """Scores the answers of one suite."""

    suite: str
    is_graded: bool  # whether scores may lie between 0 and 1
    is_likelihood: bool  # whether the score is the likelihood of the completion, so that nothing is generated
    _score: Score
    _fault: Fault

    def score(self, item: Item, answer: str | None) -> float:
        """A score in [0, 1]. A missing answer has the score 0. Raises StageFailure if a pattern takes too long."""
        if answer is None:
            return 0.0
        try:
            return self._score(item.completion, answer)
        except BadPattern as error:
            raise _unusable(self.suite, error) from error

    def check(self, completion: str, name: str) -> None:
        """Raise StageFailure if no answer could be compared with the completion of the item `name`."""
        if fault := self._fault(completion):
            raise StageFailure(StageReason.BAD_ITEMS, f"suite {self.suite}: item {name}: {fault}")


def scorer(suite: SuiteSpec) -> Scorer:
    """The scorer of a suite. Raises StageFailure if its pattern or schema can't be used."""
    try:
        score, fault = _functions(suite.metric)
    except (BadPattern, BadSchema) as error:
        raise _unusable(suite.name, error) from error
    return Scorer(suite.name, suite.metric.is_graded, suite.metric.type == "logprob", score, fault)


def _functions(metric: Metric) -> tuple[Score, Fault]:
    match metric.type:
        case "exact":
            return partial(exact, ignore_case=bool(metric.ignore_case)), _nothing
        case "contains":
            return partial(contains, ignore_case=bool(metric.ignore_case)), _nothing
        case "regex" if metric.pattern is not None:
            compiled(metric.pattern)
            return partial(extracted, metric.pattern), _nothing
        case "regex":
            return matched, _no_pattern
        case "numeric":
            tolerance, share = metric.tolerance or 0.0, metric.relative_tolerance or 0.0
            return partial(numeric, tolerance=tolerance, relative_tolerance=share), _no_number
        case "json":
            structure = Structure(metric.json_schema, metric.fields)
            return structure.score, structure.fault
        case "chrf":
            return chrf, _nothing
        case "rouge":
            return rouge_l, _no_words
        case "logprob" | "judge":
            return _no_text, _nothing
        case never:
            assert_never(never)


def _no_text(completion: str, answer: str) -> float:
    return 0.0  # not an answer's text is scored, but the completion, or the pair of both versions' answers


def _nothing(completion: str) -> str | None:
    return None


def _no_pattern(completion: str) -> str | None:
    try:
        compiled(completion)
    except BadPattern as error:
        return f"the completion is not a pattern: {error}"
    return None


def _no_number(completion: str) -> str | None:
    return "the completion has no number" if last_number(completion) is None else None


def _no_words(completion: str) -> str | None:
    return None if words(completion) else "the completion has no words: use another metric"


def _unusable(suite: str, error: ValueError) -> StageFailure:
    return StageFailure(StageReason.BAD_METRIC, f"suite {suite}: metric: {error}")
