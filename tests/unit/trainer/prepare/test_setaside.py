from typing import Any

import pytest

from driftloop.api.finetunejob import Validation
from driftloop.contract.text import side
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.data.rows import Row
from driftloop_trainer.prepare.setaside import set_aside

TEXTS = [f"question {n * 7919} about something of kind {n**3}" for n in range(400)]


def rows(texts: list[str]) -> list[Row]:
    return [Row.answering("data", "s", text, "x") for text in texts]


def chosen(texts: list[str], salt: str = "family", **settings: Any) -> set[str]:
    _, validation = set_aside(rows(texts), salt, Validation(**settings), 0.85)
    return {row.prompt for row in validation}


def test_more_rows_or_a_larger_share_only_add_to_what_is_set_aside() -> None:
    few, many = chosen(TEXTS, percent=5), chosen(TEXTS, percent=20)
    assert few < many
    assert 50 < len(many) < 110
    assert chosen(TEXTS[:200], percent=20) < many
    capped = chosen(TEXTS, percent=20, max_rows=7)
    assert len(capped) == 7
    assert capped < many


def test_the_share_does_not_depend_on_which_rows_are_held_out() -> None:
    trained = [text for text in TEXTS if side("family", text, 30) == "train"]
    assert 0.1 < len(chosen(trained, percent=20)) / len(trained) < 0.3
    assert chosen(TEXTS, salt="other", percent=20) != chosen(TEXTS, percent=20)


def test_rows_with_one_question_stay_together_and_near_copies_are_not_trained_on() -> None:
    twice = [*rows(TEXTS), *(Row.answering("data", "s", text, "y") for text in TEXTS)]
    train, validation = set_aside(twice, "family", Validation(percent=20), 0.85)
    assert validation
    assert not {row.prompt for row in train} & {row.prompt for row in validation}
    assert len(validation) == 2 * len({row.prompt for row in validation})
    sentence = "why was I charged a fee when I took out money abroad"
    near = [f"{sentence} {end}" for end in ("yesterday", "yesterday?", "Yesterday.", "yesterday!")]
    train, validation = set_aside(rows([*TEXTS, *near]), "family", Validation(percent=20), 0.85)
    sides = [any(sentence in row.prompt for row in each) for each in (train, validation)]
    assert sides in ([True, False], [False, True])


@pytest.mark.parametrize(
    ("texts", "settings", "problem"),
    [
        (TEXTS[:3], {"percent": 1}, "sets no row aside: 1 percent of the 3 training rows, at most 1000: raise"),
        (TEXTS[:3], {"percent": 50, "max_rows": 0}, "greater than or equal to 1"),
    ],
)
def test_no_row_for_validation_is_refused_with_what_to_change(
    texts: list[str], settings: dict[str, Any], problem: str
) -> None:
    with pytest.raises((StageFailure, ValueError), match=problem):
        chosen(texts, **settings)


def test_rows_that_are_all_near_the_one_that_is_set_aside_are_refused() -> None:
    sentence = "why was I charged a fee when I took out money abroad yesterday"
    copies = [sentence + "?" * marks for marks in range(8)]
    with pytest.raises(StageFailure, match=r"EmptyData: .*of 8 training rows aside, and the others are too similar"):
        chosen(copies, percent=50)
