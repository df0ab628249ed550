"""The forms in which data sets write a pair of answers are the same pair."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.contract.text import is_blank
from driftloop_trainer.data.cells import Unreadable
from driftloop_trainer.data.pairs import answered_turns
from driftloop_trainer.data.rows import Turn
from parts import examples

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: not is_blank(text))
questions = st.lists(st.tuples(words, words), max_size=3).flatmap(
    lambda earlier: words.map(
        lambda last: (
            *(turn for asked, said in earlier for turn in (Turn("user", asked), Turn("assistant", said))),
            Turn("user", last),
        )
    )
)


@given(questions, words.filter(lambda text: text.lstrip()[0] not in "[{"), st.booleans())
@examples(100)
def test_an_answer_after_its_prompt_and_a_whole_conversation_are_the_same(
    question: tuple[Turn, ...], answer: str, as_text: bool
) -> None:
    expected = (*question, Turn("assistant", answer))
    whole: object = [turn.message() for turn in expected]
    whole = json.dumps(whole) if as_text else whole
    assert answered_turns(answer, question) == expected
    assert answered_turns([expected[-1].message()], question) == expected
    assert answered_turns(whole, ()) == answered_turns(whole, question) == expected
    assert answered_turns(whole, (Turn("user", question[0].content),)) == expected
    with pytest.raises(Unreadable, match="does not begin with the prompt"):
        answered_turns(whole, (Turn("user", "".join(turn.content for turn in expected) + "!"),))


@pytest.mark.parametrize("cell", [None, "", " ", []])
def test_an_empty_cell_has_no_answer(cell: object) -> None:
    assert answered_turns(cell, (Turn("user", "q"),)) == ()
