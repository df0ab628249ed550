import pytest

from driftloop_trainer.metrics import patterns
from driftloop_trainer.metrics.patterns import BadPattern, compiled, extracted, matched


@pytest.mark.parametrize(
    ("pattern", "expected", "answer", "score"),
    [
        (r"Answer: (\w+)", "B", "Answer: A. No, wait. Answer: B", 1.0),
        (r"Answer: (\w+)", "A", "Answer: A. No, wait. Answer: B", 0.0),
        (r"[0-9]{4}", "2026", "in 2026", 1.0),
        (r"Answer: (\w+)", "A", "A", 0.0),
        (r"(a)|b", "b", "b", 0.0),  # the group took no part
        (r"x", "y", "", 0.0),
    ],
)
def test_the_last_match_or_its_group_is_the_completion(pattern: str, expected: str, answer: str, score: float) -> None:
    assert extracted(pattern, expected, answer) == score


@pytest.mark.parametrize(("expected", "answer", "score"), [("re(f|fund)", "a refund", 1.0), ("^a", "ba", 0.0)])
def test_the_completion_may_be_the_pattern(expected: str, answer: str, score: float) -> None:
    assert matched(expected, answer) == score


def test_a_pattern_that_cannot_be_compiled_is_refused() -> None:
    with pytest.raises(BadPattern, match=r"'\(a': missing \)"):
        compiled("(a")


@pytest.mark.parametrize("score", [lambda p, a: extracted(p, "x", a), matched])
def test_a_pattern_that_would_take_for_ever_is_given_up(score: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "SECONDS", 0.05)
    assert callable(score)
    with pytest.raises(BadPattern, match="avoid nested repetitions"):
        score("(?:a|aa)+$", "a" * 100 + "!")
