from hypothesis import given
from hypothesis import strategies as st

from driftloop.contract.text import normalise, row_key, side


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


def test_spelling_of_spaces_and_case_does_not_make_another_row() -> None:
    assert row_key("  Where is\tmy CARD? ") == row_key("where is my card?")


@given(st.text(), st.integers(0, 50), st.integers(0, 50))
def test_raising_the_share_never_moves_a_row_back_into_training(text: str, a: int, b: int) -> None:
    low, high = sorted((a, b))
    if side("family", text, low) == "heldOut":
        assert side("family", text, high) == "heldOut"


@given(st.text())
def test_nothing_is_held_out_of_a_share_of_zero(text: str) -> None:
    assert side("family", text, 0) == "train"


def test_the_share_is_about_what_was_asked_for_and_differs_by_family() -> None:
    rows = [f"row {i}" for i in range(4000)]
    held = {row for row in rows if side("a", row, 10) == "heldOut"}
    assert 320 < len(held) < 480
    assert held != {row for row in rows if side("b", row, 10) == "heldOut"}


def test_the_rule_is_for_ever() -> None:
    """A change of these would let versions train on rows that judged their ancestors."""
    assert [i for i in range(40) if side("support-desk", f"row {i}", 10) == "heldOut"] == [17, 34]
