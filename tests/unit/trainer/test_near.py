from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from driftloop_trainer.prepare.near import NearIndex, rows_per_band, shingles, similarity, without_copies_of

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
    index = NearIndex(0.85)
    index.add(SENTENCE)
    assert index.copies(SENTENCE.replace("morning", "mornings")) == [0]
    assert index.copies("please cancel the card that I ordered for my sister last week") == []


def test_chains_of_small_changes_do_not_make_unlike_texts_copies() -> None:
    words = SENTENCE.split()
    chain = [" ".join([*words[n:], *(f"word{i}" for i in range(n))]) for n in range(len(words) + 1)]
    threshold = min(similarity(shingles(one), shingles(following)) for one, following in pairwise(chain))
    index = NearIndex(threshold)
    index.add(chain[0])
    assert index.copies(chain[1]) == [0]
    assert index.copies(chain[-1]) == []


@given(st.floats(min_value=0.3, max_value=0.99))
def test_bands_propose_nearly_every_pair_at_the_threshold(threshold: float) -> None:
    rows = rows_per_band(threshold)
    assert 1 - (1 - threshold**rows) ** (120 // rows) >= 0.999 or rows == 1


@given(st.lists(st.text(alphabet="abcde ", min_size=1, max_size=12), max_size=12), st.text(min_size=1, max_size=12))
def test_a_copy_of_an_original_never_stays(texts: list[str], original: str) -> None:
    kept = without_copies_of([*texts, original], [original], 0.8)
    assert len(texts) not in kept
    assert kept == sorted(set(kept))
