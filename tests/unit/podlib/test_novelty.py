"""How far a text is from all training texts."""

import json
import random
from statistics import fmean, stdev
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.corpus import BICYCLE, SHOP, rows
from driftloop.contract.names import NOVELTY
from driftloop.contract.text import row_key
from driftloop.contract.textstats import counts_words
from driftloop.podlib.novelty import PLACES, WORDS, Novelty, fitted, parse_novelty

TEXTS = [row.text for row in rows(SHOP, 150, seed=1)]
OTHERS = [row.text for row in rows(BICYCLE, 60, seed=2)]


def document(texts: list[str]) -> dict[str, Any]:
    found = fitted(texts)
    assert found is not None
    return found


def parsed(found: dict[str, Any]) -> Novelty:
    novelty = parse_novelty(json.loads(json.dumps({NOVELTY: found})))
    assert novelty is not None
    return novelty


def test_texts_of_another_domain_are_further_than_other_texts_of_the_same_one() -> None:
    texts = random.Random(1).sample(TEXTS, len(TEXTS))
    trained, live = texts[::2], texts[1::2]
    novelty = parsed(document(trained))
    known, new = list(map(novelty.score, live)), list(map(novelty.score, OTHERS))
    assert fmean(new) > fmean(known) + 0.3 * stdev(known)


def test_known_words_that_never_met_in_a_text_are_new() -> None:
    subjects = [[f"{subject}{chr(97 + n)}" for n in range(12)] for subject in ("card", "loan", "fund", "cash")]
    chooser = random.Random(2)
    trained = [" ".join(chooser.sample(chooser.choice(subjects), 6)) for _ in range(600)]
    mixed = [" ".join(word for subject in subjects[:2] for word in chooser.sample(subject, 3)) for _ in range(50)]
    vocabulary = len({word for text in trained for word in text.split()})
    assert vocabulary < 64
    assert fitted(trained) is None, "too few words"
    trained = [f"{text} {chooser.choice(TEXTS)}" for text in trained]
    novelty = parsed(document(trained))
    assert fmean(map(novelty.score, mixed)) > fmean(map(novelty.score, trained)) + 0.1


def test_the_order_and_copies_of_prompts_make_no_other_encoder() -> None:
    found = document(TEXTS)
    again = document(random.Random(3).sample(TEXTS * 2, 2 * len(TEXTS)))
    assert {name: found[name] for name in ("words", "vectors", "places")} == {
        name: again[name] for name in ("words", "vectors", "places")
    }


def test_the_bins_are_deciles_of_the_texts_that_were_not_fitted() -> None:
    found = document(TEXTS)
    novelty = parsed(found)
    scored = [text for text in TEXTS if not counts_words(row_key(text))]
    shares = [sum(novelty.bin(text) == index for text in scored) / len(scored) for index in range(len(found["masses"]))]
    assert shares == pytest.approx(found["masses"])
    assert sum(shares) == pytest.approx(1)
    assert len(shares) == 10


def test_too_few_texts_have_no_encoder_and_what_is_kept_is_bounded() -> None:
    assert fitted(TEXTS[:60]) is None
    assert fitted([]) is None
    assert parse_novelty({}) is None
    words = ["".join(chr(97 + int(digit)) for digit in str(n)) for n in range(9000)]
    many = [" ".join(words[(n * 7 + i * 13) % 9000] for i in range(30)) for n in range(4000)]
    found = document(many)
    assert len(found["words"]) == WORDS
    assert len(parsed(found).places) <= PLACES


def test_no_word_that_only_one_text_has_is_kept() -> None:
    found = document([*TEXTS, *(f"{text} zeppelin" for text in TEXTS[:1])])
    assert "zeppelin" not in found["words"]


@given(st.text(max_size=200))
def test_any_text_has_a_bin(text: str) -> None:
    assert 0 <= FITTED.score(text) <= 2
    assert 0 <= FITTED.bin(text) < len(FITTED.shares)


@pytest.mark.parametrize(
    "change",
    [
        {"words": ["one"]},
        {"places": {"numbers": "", "largest": ""}},
        {"vectors": {"numbers": "!", "largest": ""}},
        {"vectors": 3},
        {"masses": [1.0]},
        {"edges": None},
    ],
)
def test_a_broken_encoder_is_named(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="novelty"):
        parse_novelty({NOVELTY: document(TEXTS) | change})


FITTED = parsed(document(TEXTS))
