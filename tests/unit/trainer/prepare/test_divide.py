from collections.abc import Hashable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.contract.text import side
from driftloop_trainer.data.rows import Row, Turn
from driftloop_trainer.prepare.divide import divide, fenced, replayed
from driftloop_trainer.prepare.near import NearIndex, shingles, similarity
from parts import examples

TEXTS = st.lists(st.text(alphabet="abcdef ", min_size=8, max_size=40), max_size=40, unique=True)


def rows(texts: list[str], part: str = "data") -> list[Row]:
    return [Row.answering(part, "s", text, "x") for text in texts]  # type: ignore[arg-type]


@given(TEXTS)
@examples(30)
def test_no_held_out_row_and_no_near_duplicate_of_one_is_trained_on(texts: list[str]) -> None:
    divided = divide(rows(texts), "family", 30)
    held_out = [shingles(row.identity) for row in divided.held_out]
    assert all(similarity(shingles(row.identity), other) < 0.85 for row in divided.train for other in held_out)
    assert len(divided.train) + len(divided.held_out) + divided.fenced == len(texts)


def test_a_near_prompt_with_another_answer_gives_nothing_away() -> None:
    question = "why was I charged a fee when I took out money abroad yesterday"
    held_out = [Row.answering("data", "s", question, "fee")]
    near = [Row.answering("data", "s", question + "?", answer) for answer in ("fee", " Fee", "cash", None)]
    assert fenced(near, held_out, 0.85) == near[2:]


def test_a_conversation_gives_away_what_it_answers_on_the_way() -> None:
    question = Row.answering("data", "s", "why was I charged a fee when I took out money abroad yesterday", "fee")
    longer = Row.answering("data", "s", "and what now?", "wait", history=question.turns)
    assert fenced([longer], [question], 0.85) == []
    assert fenced([longer], [longer], 0.85) == []
    assert fenced([question], [longer], 0.85) == [question]


def test_a_conversation_costs_little_more_than_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    characters = 0
    copies = NearIndex.copies

    def counted(index: NearIndex, text: str, answer: Hashable = None) -> list[int]:
        nonlocal characters
        characters += len(text)
        return copies(index, text, answer)

    monkeypatch.setattr(NearIndex, "copies", counted)
    turns = tuple(Turn("assistant" if n % 2 else "user", f"{n} {n * 7919:050d}") for n in range(200))
    held_out, long = Row("data", "s", turns[:2]), Row("data", "s", turns[2:])
    assert fenced([long], [held_out], 0.85) == [long]
    assert characters <= len(long.identity)


def test_sides_are_the_contract_s() -> None:
    texts = [f"question number {n} about something else entirely {n * 7919}" for n in range(200)]
    divided = divide(rows(texts), "family", 20)
    assert {row.prompt for row in divided.held_out} == {t for t in texts if side("family", t, 20) == "heldOut"}
    assert 20 <= len(divided.held_out) <= 60


@given(st.floats(0, 1), st.floats(0, 1))
@examples(30)
def test_a_larger_fraction_only_adds_replayed_rows(one: float, other: float) -> None:
    low, high = sorted((one, other))
    some = rows([f"row {n}" for n in range(50)], "replay")
    assert {r.prompt for r in some if replayed(r, low)} <= {r.prompt for r in some if replayed(r, high)}


def test_replay_takes_about_its_fraction_and_touches_no_other_part() -> None:
    old = rows([f"row {n}" for n in range(1000)], "replay")
    assert 200 < sum(replayed(row, 0.25) for row in old) < 300
    assert all(replayed(row, 0.0) for row in rows(["a", "b"]))
