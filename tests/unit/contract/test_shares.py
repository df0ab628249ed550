import random
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from driftloop.contract.shares import TEXTS, USERS, WINDOW, Shares, user_of


def admitted(shares: Shares, requests: Sequence[tuple[str, str | None]]) -> int:
    return sum(shares.admits(text, user) for text, user in requests)


def others(number: int, seed: int = 1) -> list[tuple[str, str | None]]:
    rng = random.Random(seed)
    return [(f"question {rng.random()}", f"user {rng.random()}") for _ in range(number)]


def test_different_texts_of_different_users_all_count() -> None:
    assert admitted(Shares(), others(3 * WINDOW)) == 3 * WINDOW


def test_a_text_that_is_sent_again_and_again_counts_for_a_hundredth() -> None:
    shares = Shares()
    admitted(shares, others(WINDOW))
    mixed = [pair for other in others(WINDOW, seed=2) for pair in (other, ("Ping", None))]
    assert admitted(shares, mixed) <= WINDOW + 2 * TEXTS + 2


def test_case_and_spaces_make_no_other_text() -> None:
    shares = Shares()
    admitted(shares, others(WINDOW))
    assert admitted(shares, [("ping", None), ("PING", None), ("  ping ", None)] * TEXTS) == TEXTS


def test_a_user_who_sends_half_of_the_requests_counts_for_a_fiftieth() -> None:
    shares = Shares()
    admitted(shares, others(WINDOW))
    mixed = [pair for other in others(WINDOW, seed=2) for pair in (other, (f"my own {other[0]}", "script"))]
    assert admitted(shares, mixed) <= WINDOW + 2 * USERS + 2


def test_a_team_of_five_counts_in_full() -> None:
    texts = [(f"question {n}", f"user {n % 5}") for n in range(2 * WINDOW)]
    assert admitted(Shares(), texts) == 2 * WINDOW


def test_a_narrow_service_with_twenty_texts_counts_nearly_in_full() -> None:
    rng = random.Random(3)
    texts = [(f"text {rng.randrange(20)}", None) for _ in range(4 * WINDOW)]
    assert admitted(Shares(), texts) > 3.9 * WINDOW


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from([None, "x", "y"])), max_size=2000))
def test_what_is_remembered_is_bounded_and_consistent(requests: list[tuple[str, str | None]]) -> None:
    shares = Shares()
    admitted(shares, requests)
    assert len(shares._last) <= WINDOW
    assert sum(shares._texts.values()) == sum(text is not None for text, _ in shares._last)
    assert sum(shares._users.values()) == sum(user is not None for _, user in shares._last)


def test_the_user_of_a_request_is_what_the_body_says() -> None:
    assert user_of({"user": "ada"}) == "ada"
    assert user_of({"user": "ada", "safety_identifier": "hash"}) == "hash"
    assert user_of({"user": ""}) is None
    assert user_of({"user": 7}) is None
    assert user_of([]) is None
