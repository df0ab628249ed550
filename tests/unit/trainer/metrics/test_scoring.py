from typing import Any

import pytest

from driftloop.api.suite import SuiteSpec
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.data.items import Item, Question
from driftloop_trainer.metrics import patterns
from driftloop_trainer.metrics.scoring import Scorer, scorer

ORDER = '{"total": 12.5, "ok": true}'


def scorer_of(**metric: Any) -> Scorer:
    return scorer(SuiteSpec.model_validate({"name": "s", "kind": "floor", "items": "data", "metric": metric}))


def item(completion: str) -> Item:
    return Item("1", Question("q"), completion, "1", "1")


@pytest.mark.parametrize(
    ("metric", "completion", "answer", "score", "is_graded"),
    [
        ({}, "yes", " yes ", 1.0, False),
        ({"type": "exact", "ignoreCase": True}, "yes", "YES", 1.0, False),
        ({"type": "contains"}, "yes", "oh yes", 1.0, False),
        ({"type": "regex", "pattern": "Answer: (.)"}, "B", "Answer: B", 1.0, False),
        ({"type": "regex"}, "^B$", "B", 1.0, False),
        ({"type": "numeric", "tolerance": 0.5}, "12", "It is 12.4", 1.0, False),
        ({"type": "numeric", "relativeTolerance": 0.01}, "12", "It is 12.4", 0.0, False),
        ({"type": "json"}, ORDER, '{"total": 12.5, "ok": false}', 0.5, True),
        ({"type": "json", "schema": {"required": ["ok"]}, "fields": ["total"]}, ORDER, '{"total": 12.5}', 0.0, True),
        ({"type": "chrf"}, "card", "card", 1.0, True),
        ({"type": "rouge"}, "my card", "my parcel", 0.5, True),
    ],
)
def test_each_metric_scores_with_its_settings(
    metric: dict[str, Any], completion: str, answer: str, score: float, is_graded: bool
) -> None:
    found = scorer_of(**metric)
    found.check(completion, "1")
    assert found.is_graded is is_graded
    assert found.score(item(completion), answer) == score
    assert found.score(item(completion), None) == 0.0


@pytest.mark.parametrize(
    ("metric", "completion", "message"),
    [
        ({"type": "regex"}, "(a", "BadItems: suite s: item 7: the completion is not a pattern"),
        ({"type": "numeric"}, "many", "BadItems: suite s: item 7: the completion has no number"),
        ({"type": "json"}, "many", "BadItems: suite s: item 7: the completion is not JSON"),
        ({"type": "rouge"}, "?!", "BadItems: suite s: item 7: the completion has no words"),
    ],
)
def test_a_completion_that_the_metric_cannot_compare_is_named(
    metric: dict[str, Any], completion: str, message: str
) -> None:
    with pytest.raises(StageFailure, match=message):
        scorer_of(**metric).check(completion, "7")


@pytest.mark.parametrize("metric", [{"type": "regex", "pattern": "(a"}, {"type": "json", "schema": {"type": "objekt"}}])
def test_a_metric_that_cannot_be_used_is_an_error_of_the_suite(metric: dict[str, Any]) -> None:
    with pytest.raises(StageFailure, match="BadMetric: suite s: metric"):
        scorer_of(**metric)


def test_a_pattern_that_hangs_on_an_answer_ends_the_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted as wrong, it would judge the pattern and not the version."""
    monkeypatch.setattr(patterns, "SECONDS", 0.05)
    slow = scorer_of(type="regex", pattern="(?:a|aa)+$")
    with pytest.raises(StageFailure, match=r"BadMetric: suite s.*avoid nested repetitions"):
        slow.score(item("x"), "a" * 100 + "!")
