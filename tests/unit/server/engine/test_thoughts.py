"""Thoughts are told apart from the answer, wherever the text is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop_server.engine.thoughts import Parts, Thoughts

CASES = [
    ("<think>\nIt is lost.\n</think>\n\ncard_lost", False, ("It is lost.\n", "card_lost")),
    ("<think>\n\n</think>\n\ncard_lost", False, ("", "card_lost")),
    ("It is lost.</think>card_lost", True, ("It is lost.", "card_lost")),
    ("\n <think>a < b </thin </think> a < b <think>", False, ("a < b </thin ", "a < b <think>")),
    ("card_lost", False, ("", "card_lost")),
    (" <thinner", False, ("", " <thinner")),
    (" <thi", False, ("", " <thi")),
    ("no tag </think> here", False, ("", "no tag </think> here")),
    ("<think>never done </thi", False, ("never done </thi", "")),
    ("", True, ("", "")),
]


def separated(pieces: list[str], begun: bool) -> Parts:
    found = Thoughts(begun)
    parts = [found.push(piece, last=False) for piece in pieces] + [found.push("", last=True)]
    return Parts("".join(part.thoughts for part in parts), "".join(part.answer for part in parts))


@pytest.mark.parametrize(("text", "begun", "expected"), CASES)
def test_thoughts_and_answer_are_told_apart(text: str, begun: bool, expected: tuple[str, str]) -> None:
    assert Thoughts(begun).push(text, last=True) == expected
    assert separated(list(text), begun) == expected


@given(
    st.lists(st.sampled_from(["<", "think>", "</", "</think>", "<think>", "\n", " ", "a", "th"]), max_size=12),
    st.booleans(),
)
def test_it_does_not_matter_where_a_stream_is_cut(pieces: list[str], begun: bool) -> None:
    assert separated(pieces, begun) == Thoughts(begun).push("".join(pieces), last=True)
