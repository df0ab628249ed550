import pytest

from driftloop_trainer.metrics.numeric import last_number, numeric


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("From 1,200.50 EUR to -3.", -3.0),
        ("$1,234,567", 1_234_567.0),
        ("\u22125 degrees", -5.0),
        ("10 - 2", 2.0),
        ("3-2", 2.0),
        ("x=12kg", 12.0),
        ("1.5e3 or .5", 0.5),
        ("50%", 50.0),
        ("H2O in v1.2.3", None),
        ("none", None),
        ("9" * 400, None),
        ("", None),
    ],
)
def test_the_last_number_of_a_text(text: str, number: float | None) -> None:
    assert last_number(text) == number


@pytest.mark.parametrize(
    ("expected", "answer", "tolerance", "relative", "score"),
    [
        ("42", "The answer is 42.0.", 0.0, 0.0, 1.0),
        ("42", "43", 0.0, 0.0, 0.0),
        ("42", "43", 1.0, 0.0, 1.0),
        ("1000", "1009", 1.0, 0.01, 1.0),
        ("-1000", "-1011", 1.0, 0.01, 0.0),
        ("42", "I don't know", 100.0, 1.0, 0.0),
        ("42", "", 0.0, 0.0, 0.0),
    ],
)
def test_numbers_are_compared_within_the_larger_tolerance(
    expected: str, answer: str, tolerance: float, relative: float, score: float
) -> None:
    assert numeric(expected, answer, tolerance, relative) == score
