"""Ratings per user and hour."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop_server.proxy import feedback
from driftloop_server.proxy.feedback import UserCap


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 600)), max_size=60))
def test_nobody_gets_more_than_the_limit_in_an_hour(asked: list[tuple[str, int]]) -> None:
    cap, now = UserCap(limit=3), 0.0
    taken: dict[tuple[str, int], int] = {}
    for user, seconds in asked:
        now += seconds
        wait = cap.take(user, now)
        hour = int(now // 3600)
        if wait:
            assert taken[user, hour] == 3
            assert int((now + wait) // 3600) == hour + 1
        else:
            taken[user, hour] = taken.get((user, hour), 0) + 1
    assert all(count <= 3 for count in taken.values())


def test_a_flood_of_users_shares_one_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback, "MAX_USERS", 10)
    cap = UserCap(limit=2)
    assert sum(not cap.take(f"user-{i}", 0) for i in range(100)) == 12
