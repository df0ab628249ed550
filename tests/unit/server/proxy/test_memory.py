"""What a pod remembers is bounded."""

from hypothesis import given
from hypothesis import strategies as st

from driftloop.contract.prompts import Prompt
from driftloop_server.proxy.memory import Answer, Memory


@given(st.lists(st.integers(0, 60), max_size=60))
def test_the_newest_are_kept_within_both_bounds(sizes: list[int]) -> None:
    memory = Memory(max_entries=4, max_characters=100)
    for number, size in enumerate(sizes):
        memory.add(str(number), Answer(Prompt("x" * size), ""))
    kept = max(n for n in range(5) if n <= len(sizes) and sum(sizes[len(sizes) - n :]) <= 100)
    found = [memory.get(str(number)) is not None for number in range(len(sizes))]
    assert found == [False] * (len(sizes) - kept) + [True] * kept


def test_an_answer_beyond_all_bounds_is_not_kept() -> None:
    memory = Memory(max_characters=10)
    memory.add("a", Answer(Prompt("x" * 11), ""))
    assert memory.get("a") is None
