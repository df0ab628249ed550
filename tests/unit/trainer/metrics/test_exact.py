import pytest

from driftloop_trainer.metrics.exact import contains, exact


@pytest.mark.parametrize(
    ("expected", "answer", "ignore_case", "score"),
    [
        ("track_parcel", "track_parcel", False, 1.0),
        ("find my card", "  find my\ncard ", False, 1.0),
        ("ﬁne", "fine", False, 1.0),
        ("Yes", "yes", False, 0.0),
        ("Straße", "STRASSE", True, 1.0),
        ("yes", "yes, of course", False, 0.0),
        ("yes", "", False, 0.0),
    ],
)
def test_the_answer_is_the_completion(expected: str, answer: str, ignore_case: bool, score: float) -> None:
    assert exact(expected, answer, ignore_case) == score


@pytest.mark.parametrize(
    ("expected", "answer", "ignore_case", "score"),
    [
        ("3 days", "It takes 3\n days.", False, 1.0),
        ("3 Days", "it takes 3 days", False, 0.0),
        ("3 Days", "it takes 3 days", True, 1.0),
        ("cat", "category", False, 1.0),
        ("cat", "", False, 0.0),
    ],
)
def test_the_completion_is_a_part_of_the_answer(expected: str, answer: str, ignore_case: bool, score: float) -> None:
    assert contains(expected, answer, ignore_case) == score
