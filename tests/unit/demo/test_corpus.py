from demo.corpus import BICYCLE, SHOP, rows


def test_the_same_seed_gives_the_same_rows_and_another_seed_others() -> None:
    assert rows(SHOP, 20, 1) == rows(SHOP, 20, 1)
    assert rows(SHOP, 20, 1) != rows(SHOP, 20, 2)


def test_every_intent_has_its_rows_and_no_text_stands_for_two_intents() -> None:
    for domain in (SHOP, BICYCLE):
        found = rows(domain, 60, 3)
        assert {intent: sum(row.category == intent for row in found) for intent in domain} == dict.fromkeys(domain, 60)
        assert len({row.text for row in found}) == len(found)


def test_rows_are_no_near_duplicates_of_each_other() -> None:
    """dedupNear at its default of 0.85 must leave the corpus nearly whole."""
    found = [_shingles(row.text) for row in rows(SHOP, 30, 5)]
    copies = sum(any(_jaccard(a, b) > 0.85 for b in found[:i]) for i, a in enumerate(found))
    assert copies < len(found) // 100


def test_the_second_domain_speaks_of_things_the_first_has_no_word_for() -> None:
    words = [{word for row in rows(domain, 50, 1) for word in row.text.lower().split()} for domain in (SHOP, BICYCLE)]
    assert len(words[1] - words[0]) > 100


def _shingles(text: str) -> set[str]:
    return {text.casefold()[i : i + 5] for i in range(len(text) - 4)}


def _jaccard(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b)
