import random

import pytest

from driftloop_trainer.metrics.similarity import chrf, rouge_l

# Values of sacrebleu 2.6.0 (chrF2, sentence) and rouge-score 0.1.2 (rougeL, F-measure).
PUBLISHED = [
    ("The parcel arrived.", "The parcel has arrived!", 0.711891240916, 0.857142857143),
    ("card", "card", 1.0, 1.0),
    ("a", "b", 0.0, 0.0),
    ("a", "ab", 0.833333333333, 0.0),
    ("yes", "no", 0.0, 0.0),
    ("refund in 3 days", "3 days", 0.305558189922, 0.666666666667),
    ("das Paket ist da", "Das Paket ist nicht da", 0.707930896140, 0.888888888889),
    ("x y z", "z y x", 0.333333333333, 0.333333333333),
    (
        "yet payment of payment card please my arrived payment has refund refund arrived 20 has",
        "yet payment of payment card please my arrived payment has refund refund arrived 20 refund my 20",
        0.937905521542,
        0.875000000000,
    ),
    (
        "refund today yet payment the please arrived 20 card payment please parcel arrived",
        "refund today yet payment the please arrived payment parcel arrived refund not refund",
        0.770852771536,
        0.769230769231,
    ),
    (
        "has has refund 20 parcel card today the the yet card not my parcel refund",
        "has refund parcel card the yet card not of 20 not",
        0.504389308318,
        0.615384615385,
    ),
    (
        "yet yet yet has today EUR please please refund EUR my please payment EUR",
        "yet yet yet today EUR please please refund my please payment EUR yet the please card",
        0.789636187332,
        0.800000000000,
    ),
]


@pytest.mark.parametrize(("expected", "answer", "chrf2", "rouge"), PUBLISHED)
def test_the_scores_are_those_of_the_known_libraries(expected: str, answer: str, chrf2: float, rouge: float) -> None:
    assert chrf(expected, answer) == pytest.approx(chrf2, abs=1e-11)
    assert rouge_l(expected, answer) == pytest.approx(rouge, abs=1e-11)


@pytest.mark.parametrize("answer", ["", "   ", "!?", "\u0000"])
def test_an_answer_without_words_has_no_score(answer: str) -> None:
    assert (chrf("card", answer), rouge_l("card", answer)) == (0.0, 0.0)


@pytest.mark.parametrize("text", ["Übermorgen ist Ostern", "мой платёж", "我的卡", "👍🏽 ok"])
def test_the_letters_of_all_languages_count(text: str) -> None:
    assert chrf(text, text) == pytest.approx(1.0)
    assert rouge_l(text, text.upper()) == 1.0


def test_a_common_subsequence_is_as_long_as_the_table_of_all_prefixes_says() -> None:
    rng = random.Random(5)
    for _ in range(200):
        one, other = ([rng.choice("abcd") for _ in range(rng.randint(1, 12))] for _ in range(2))
        table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
        for i, x in enumerate(one):
            for j, y in enumerate(other):
                table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
        assert rouge_l(" ".join(one), " ".join(other)) == pytest.approx(2 * table[-1][-1] / (len(one) + len(other)))


def test_answers_as_long_as_they_may_be_are_compared_at_once() -> None:
    text = " ".join(f"word{n % 997}" for n in range(30_000))
    assert rouge_l(text, text + " more") == pytest.approx(1.0, abs=1e-4)
