from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.api.finetunejob import DEFAULT_STEPS, DataStep
from driftloop_trainer.data.rows import Row, Turn
from driftloop_trainer.prepare.divide import divide, fenced
from driftloop_trainer.prepare.steps import clean, drop_exact, drop_near, feedback_wins

LONG = "why was I charged a fee when I took out money abroad yesterday"


def row(prompt: str, completion: str | None = "x", part: str = "data") -> Row:
    return Row.answering(part, "s", prompt, completion)  # type: ignore[arg-type]


def test_steps_run_in_order_and_tell_what_they_dropped() -> None:
    rows = [row("  A   b "), row("a b"), row("much too long a text")]
    kept, dropped = clean(
        rows,
        [DataStep(type="normalise"), DataStep(type="filterLength", max_characters=10), DataStep(type="dedupExact")],
    )
    assert [r.prompt for r in kept] == ["A   b"]
    assert dropped == {"normalise": 0, "filterLength": 1, "dedupExact": 1}


def test_normalise_drops_rows_of_nothing_but_space() -> None:
    assert clean([row("\u00a0 \n")], [DataStep(type="normalise")]) == ([], {"normalise": 1})


def test_the_same_prompt_with_another_answer_is_no_copy() -> None:
    assert len(drop_exact([row("a", "x"), row("A", "y"), row("a ", "x")])) == 2


def test_near_copies_go_and_the_first_stays() -> None:
    assert drop_near([row(LONG), row(LONG + "?")], 0.85) == [row(LONG)]


def test_a_near_copy_with_another_answer_stays() -> None:
    assert len(drop_near([row(LONG, "fee"), row(LONG + "?", "cash")], 0.85)) == 2


INSTRUCTION = " ".join(f"Rule {n}: when the customer says {n * 7919 % 997}, answer label {n}." for n in range(50))


def messages(count: int) -> list[str]:
    return [f"{INSTRUCTION}\nMessage: {Random(n).getrandbits(120):x} {n}" for n in range(count)]


def test_default_cleaning_leaves_messages_under_a_common_instruction_alone() -> None:
    rows = [row(text, f"label {n % 7}") for n, text in enumerate(messages(400))]
    kept, dropped = clean(rows, DEFAULT_STEPS)
    assert len(kept) == 400, dropped
    divided = divide(kept, "family", 10)
    assert (len(divided.train) + len(divided.held_out), divided.fenced) == (400, 0)


def test_messages_under_many_instructions_stay_too() -> None:
    instructions = ["".join(Random(n).choices("abcdefgh ", k=600)) for n in range(100)]
    rows = [row(f"{instructions[n % 100]}\nMessage: {Random(n).getrandbits(80):x}", "yes") for n in range(2000)]
    assert drop_near(rows, 0.85) == rows


def with_typo(seed: int) -> Row:
    random = Random(seed)
    place = random.randrange(10, len(LONG))
    return row(LONG[:place] + random.choice("qxz~") + LONG[place + 1 :])


@pytest.mark.parametrize("count", [5, 50, 500])
def test_near_copies_go_where_everything_is_alike(count: int) -> None:
    assert drop_near([row(LONG), *(with_typo(number) for number in range(count))], 0.85) == [row(LONG)]


def test_a_near_copy_under_a_common_instruction_goes() -> None:
    rows = [row(text) for text in messages(200)]
    copies = [row(found.prompt + "?") for found in rows]
    assert drop_near([*rows, *copies], 0.85) == rows


@given(st.lists(st.tuples(st.text(min_size=1, max_size=6), st.sampled_from("xy")), max_size=20))
def test_deduplication_is_idempotent(pairs: list[tuple[str, str]]) -> None:
    once = drop_near(drop_exact([row(*pair) for pair in pairs]), 0.85)
    assert drop_near(drop_exact(once), 0.85) == once


def test_feedback_replaces_an_older_answer_and_leaves_the_rest() -> None:
    correction = row("where is my card", "card_arrival", "feedback")
    old, other = row("Where is my card", "lost_card", "replay"), row("hello", "greeting", "replay")
    assert feedback_wins([correction, old, other]) == ([correction, other], 1)


def test_feedback_with_labels_drops_what_says_the_opposite_and_keeps_other_bad_answers() -> None:
    def rated(answer: str, label: bool, part: str) -> Row:
        return replace(row("where is my card", answer, part), label=label)

    good, bad = rated("right", True, "feedback"), rated("wrong", False, "feedback")
    agreeing = [rated("right", True, "data"), rated("wrong", False, "data"), rated("worse", False, "data")]
    opposite = [rated("right", False, "data"), rated("wrong", True, "data"), rated("other", True, "data")]
    assert feedback_wins([good, bad, *agreeing, *opposite]) == ([good, bad, *agreeing], 3)


def test_answers_with_other_labels_are_no_copies() -> None:
    rows = [replace(row(LONG), label=label) for label in (True, False, True)]
    assert drop_exact(rows) == rows[:2] == drop_near(rows, 0.85)


def test_pairs_are_copies_only_if_both_answers_are_the_same() -> None:
    pairs = [replace(row(LONG), rejected=Turn("assistant", text)) for text in ("y", "z", "y")]
    assert drop_exact(pairs) == pairs[:2] == drop_near(pairs, 0.85)


def test_a_pair_is_a_copy_of_a_held_out_one_whatever_was_rejected() -> None:
    one, other = (replace(row(LONG + end), rejected=Turn("assistant", end or "y")) for end in ("", "?"))
    assert fenced([other], [one], 0.85) == []


def test_normalise_changes_both_answers_of_a_pair() -> None:
    pair = replace(row("a", " x "), rejected=Turn("assistant", "y\r\n"))
    assert pair.characters == 1 + 3 + 3
    [kept], _ = clean([pair], [DataStep(type="normalise")])
    assert (kept.completion, kept.rejected) == ("x", Turn("assistant", "y"))
