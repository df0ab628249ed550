from collections.abc import Callable
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop_trainer.prepare.near import (
    NearIndex,
    rows_per_band,
    shingles,
    similarity,
)

SENTENCE = "please cancel the transfer that I made to my sister this morning"


def test_similarity_of_a_text_with_itself_is_one_and_with_another_alphabet_zero() -> None:
    assert similarity(shingles(SENTENCE), shingles(SENTENCE.upper())) == 1
    assert similarity(shingles(SENTENCE), shingles("0123456789")) == 0


@given(st.text(max_size=30), st.text(max_size=30))
def test_similarity_is_symmetric_and_a_share(one: str, other: str) -> None:
    found = similarity(shingles(one), shingles(other))
    assert found == similarity(shingles(other), shingles(one))
    assert 0 <= found <= 1


def test_a_changed_letter_is_found_and_a_changed_meaning_is_not() -> None:
    index = NearIndex(0.85, [SENTENCE])
    index.add(SENTENCE)
    assert index.copies(SENTENCE.replace("morning", "mornings")) == [0]
    assert index.copies("please cancel the card that I ordered for my sister last week") == []


def test_chains_of_small_changes_do_not_make_unlike_texts_copies() -> None:
    words = SENTENCE.split()
    chain = [" ".join([*words[n:], *(f"word{i}" for i in range(n))]) for n in range(len(words) + 1)]
    threshold = min(similarity(shingles(one), shingles(following)) for one, following in pairwise(chain))
    index = NearIndex(threshold, chain)
    index.add(chain[0])
    assert index.copies(chain[1]) == [0]
    assert index.copies(chain[-1]) == []


@given(st.floats(min_value=0.3, max_value=0.99))
def test_bands_propose_nearly_every_pair_at_the_threshold(threshold: float) -> None:
    rows = rows_per_band(threshold)
    assert 1 - (1 - threshold**rows) ** (120 // rows) >= 0.999 or rows == 1


@given(st.lists(st.text(alphabet="abcde ", min_size=1, max_size=12), max_size=12), st.text(min_size=1, max_size=12))
def test_a_copy_is_always_found(texts: list[str], original: str) -> None:
    index = NearIndex(0.8, [*texts, original])
    index.add(original)
    assert index.copies(original) == [0]


def test_the_same_text_with_another_answer_is_no_copy() -> None:
    index = NearIndex(0.85, [SENTENCE])
    index.add(SENTENCE, "cancel")
    assert index.copies(SENTENCE, "refund") == []
    assert index.copies(SENTENCE + "!", "cancel") == [0]


def numbered(number: int) -> str:
    return f"order {number:04d}"  # too short for a passage: only the caps bound the work


def misspelt(number: int) -> str:
    place = number % len(SENTENCE)
    return SENTENCE[:place] + "qxz~"[number % 4] + SENTENCE[place + 1 :]  # a typo is no gap: here too


def unlike(number: int) -> str:
    random = Random(number)
    return "".join(random.choice("abcdefghij ") for _ in range(60))


@pytest.mark.parametrize("text", [numbered, misspelt, unlike])
@pytest.mark.parametrize("threshold", [0.5, 0.85])
def test_each_row_is_compared_with_few_others_however_many_are_alike(
    text: Callable[[int], str], threshold: float
) -> None:
    rows = [text(number) for number in range(1000)]
    index = NearIndex(threshold, rows)
    most = 0
    for row in rows:
        before = index.comparisons
        index.copies(row)
        index.add(row)
        most = max(most, index.comparisons - before)
    assert most <= 32
    assert max(map(len, index._buckets.values())) <= 32


def test_among_many_that_are_alike_a_copy_is_still_found() -> None:
    rows = [f"{unlike(1000 + number // 100)} and once more: {unlike(number)}" for number in range(500)]
    index = NearIndex(0.85, rows)
    for row in rows:
        index.add(row)
    assert all(index.copies(row + "?") == [number] for number, row in enumerate(rows))
