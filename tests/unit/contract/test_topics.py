"""Topics that grew: what is named, what is not, and how often chance alone names something."""

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from demo.corpus import BICYCLE, SHOP, rows
from driftloop.contract.topics import (
    EXAMPLES,
    FEWEST,
    RATE,
    TEXTS,
    TOPICS,
    USERS,
    Asked,
    Sample,
    asked,
    log_tail,
    terms_of,
    topics,
)

CHANGE = datetime(2026, 11, 1, tzinfo=UTC)
OLD = [row.text for row in rows(SHOP, 200, seed=1)]
NEW = [row.text for row in rows(BICYCLE, 60, seed=2)]


def sent(texts: Iterable[str], *, since: bool = False) -> list[Asked]:
    step = timedelta(seconds=1 if since else -1)
    return [asked(CHANGE + number * step, text, None, f"row {number}") for number, text in enumerate(texts, 1)]


def drawn(pool: Sequence[str], number: int, seed: int) -> list[str]:
    return random.Random(seed).choices(pool, k=number)


def test_a_new_topic_is_named_with_its_shares_and_rows() -> None:
    new = [f"{text} about my pedelec" for text in drawn(OLD, 40, seed=3)]
    since = [*drawn(OLD, 160, seed=2), *new]
    found = topics(sent(drawn(OLD, 1000, seed=1)), sent(since, since=True))
    assert found is not None
    (topic,) = found
    assert topic.terms[0] in ("pedelec", "my pedelec", "about my")
    assert any("pedelec" in term for term in topic.terms)
    assert (topic.before, topic.since, topic.requests) == (0.0, 0.2, 40)
    assert len(set(topic.examples)) == EXAMPLES
    assert all(160 < int(name.split()[1]) <= 200 for name in topic.examples)


def test_each_of_several_topics_is_named_once_with_rows_of_its_own() -> None:
    parts = [[f"{text} {word}" for text in drawn(OLD, 40, seed)] for seed, word in enumerate(("zebra", "yak", "xerus"))]
    since = [*drawn(OLD, 200, seed=9), *(text for part in parts for text in part)]
    found = topics(sent(drawn(OLD, 1000, seed=1)), sent(since, since=True))
    assert found is not None
    assert len(found) == TOPICS
    assert {term for topic in found for term in topic.terms} >= {"zebra", "yak", "xerus"}
    examples = [name for topic in found for name in topic.examples]
    assert len(set(examples)) == len(examples) == TOPICS * EXAMPLES


def test_a_topic_in_other_words_is_no_second_topic() -> None:
    since = [*drawn(OLD, 200, seed=2), *(f"{text} electric bicycle rental" for text in drawn(OLD, 50, seed=3))]
    found = topics(sent(drawn(OLD, 1000, seed=1)), sent(since, since=True))
    assert found is not None
    assert len(found) == 1


def test_few_texts_or_one_text_again_and_again_name_nothing() -> None:
    before, usual = sent(drawn(OLD, 1000, seed=1)), drawn(OLD, 200, seed=2)
    secret = [f"{text} secret" for text in OLD[: TEXTS - 1]]
    assert "secret" not in _named(before, sent([*usual, *(10 * secret)], since=True))
    spaced = [f"My  Secret{' ' * number}{'!' * (number % 2)}" for number in range(40)]
    assert "secret" not in _named(before, sent([*usual, *spaced], since=True))
    assert "secret" in _named(before, sent([*usual, *(f"{text} secret" for text in OLD[:40])], since=True))


def test_what_few_users_write_is_not_named() -> None:
    before, usual = sent(drawn(OLD, 1000, seed=1)), sent(drawn(OLD, 200, seed=2), since=True)
    for users, named in ((USERS - 1, False), (USERS, True)):
        theirs = [asked(CHANGE, f"{text} secret", f"user {n % users}") for n, text in enumerate(OLD[:40])]
        assert ("secret" in _named(before, [*usual, *theirs])) == named


def _named(before: list[Asked], since: list[Asked]) -> str:
    return " ".join(term for topic in topics(before, since) or () for term in topic.terms)


@pytest.mark.parametrize(("old", "new"), [(FEWEST - 1, 500), (500, FEWEST - 1), (0, 0)])
def test_few_requests_tell_nothing(old: int, new: int) -> None:
    assert topics(sent(drawn(OLD, old, seed=1)), sent(drawn(NEW, new, seed=2), since=True)) is None


def test_a_term_that_became_rarer_or_hardly_more_frequent_is_no_topic() -> None:
    had = [f"{text} zebra" for text in OLD]
    assert topics(sent(drawn(had, 1000, seed=1)), sent(drawn(OLD, 400, seed=2), since=True)) == ()
    hardly = [*drawn(OLD, 4970, seed=2), *(f"{text} yak" for text in drawn(OLD, 30, seed=3))]
    assert topics(sent(drawn(OLD, 5000, seed=1)), sent(hardly, since=True)) == ()


def test_chance_alone_names_a_topic_in_few_cases() -> None:
    pool, named = [*OLD, *NEW], 0
    for seed in range(60):
        found = topics(sent(drawn(pool, 1000, seed)), sent(drawn(pool, 200, 1000 + seed), since=True))
        named += bool(found)
    assert named <= 60 * RATE + 3  # three more: P = 2.9 % at a rate of exactly RATE


def test_requests_that_depend_on_each_other_count_as_fewer() -> None:
    since = [*drawn(OLD, 190, seed=2), *(f"{text} pedelec" for text in drawn(OLD, 10, seed=3))]
    sides = sent(drawn(OLD, 1000, seed=1)), sent(since, since=True)
    assert topics(*sides)
    assert topics(*sides, together=3.0) == ()


def test_the_same_requests_give_the_same_topics() -> None:
    sides = sent(drawn(OLD, 500, seed=1)), sent(drawn(NEW, 300, seed=2), since=True)
    before, since = ([replace(a, terms=frozenset(sorted(a.terms, reverse=True))) for a in side] for side in sides)
    assert topics(*sides) == topics(before, since)


@pytest.mark.parametrize(("count", "trials", "chance"), [(7, 9, 0.3), (40, 50, 0.5), (12, 400, 0.01), (30, 30, 0.9)])
def test_the_tail_is_that_of_the_binomial_distribution(count: int, trials: int, chance: float) -> None:
    exact = sum(math.comb(trials, k) * chance**k * (1 - chance) ** (trials - k) for k in range(count, trials + 1))
    assert log_tail(count, trials, chance) == pytest.approx(math.log(exact), rel=1e-9)


def test_a_tail_too_small_for_a_float_has_a_logarithm() -> None:
    assert log_tail(4000, 4000, 0.1) == pytest.approx(4000 * math.log(0.1))


def test_a_sample_keeps_the_last_requests_and_some_of_all_earlier_ones() -> None:
    sample = Sample(100, 100)
    for request in sent([f"text {number}" for number in range(1000)], since=True):
        sample.add(request)
    before, since = sample.split(CHANGE + timedelta(seconds=901))
    assert [request.name for request in since] == [f"row {number}" for number in range(901, 1001)]
    numbers = [int(request.name.split()[1]) for request in before]
    assert len(numbers) == 100
    assert 300 < sum(numbers) / 100 < 600  # of 1 to 900


def test_a_change_before_the_last_requests_is_found_among_the_earlier_ones() -> None:
    sample = Sample(100, 200)
    for request in sent([f"text {number}" for number in range(1000)], since=True):
        sample.add(request)
    before, since = sample.split(CHANGE + timedelta(seconds=500))
    assert 80 < len(before) < 140
    assert len(before) + len(since) == 300


def test_a_long_text_has_a_bounded_number_of_terms() -> None:
    assert len(terms_of(" ".join(f"word{'x' * n}" for n in range(1000)))) < 400
