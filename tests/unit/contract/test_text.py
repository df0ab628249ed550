from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from driftloop.contract.text import conversation_identity, normalise, row_key, side


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


def call(arguments: object, identity: str = "c1") -> dict[str, Any]:
    called = {"id": identity, "type": "function", "function": {"name": "rate", "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [called]}


def test_a_turn_alone_is_its_text_whatever_the_instructions() -> None:
    user = {"role": "user", "content": "My card?"}
    assert conversation_identity([user]) == "My card?"
    assert conversation_identity([{"role": "system", "content": "Be kind."}, user]) == "My card?"
    assert conversation_identity([{"role": "developer", "content": "Be kind."}, user]) == "My card?"


def test_all_that_was_said_makes_a_conversation() -> None:
    turns = [{"role": role, "content": role[0]} for role in ("user", "assistant", "user", "tool")]
    assert conversation_identity(turns) == "u\na\nu\nt"


def test_a_tool_call_counts_by_its_name_and_arguments() -> None:
    asked = conversation_identity([call({"to": "EUR", "from": "USD"})])
    assert asked == conversation_identity([call('{"from": "USD", "to": "EUR"}', "c2")])
    assert asked != conversation_identity([call({"to": "GBP", "from": "USD"})])
    assert "no JSON" in conversation_identity([call("no JSON")])
