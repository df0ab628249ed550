"""Long prompts stand in nobody's way, and nothing is done for a client that left."""

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftloop_server.engine.tokenising import (
    LANES,
    MAX_JOBS,
    SYNTAX,
    Crowded,
    Tokenising,
    refuse_hopeless,
    refuse_oversized,
)
from driftloop_server.openai_api import ApiError

LONG = LANES[0] + 1


class Gate:
    """Work that takes until it is opened."""

    def __init__(self) -> None:
        self.began, self.opened = threading.Event(), threading.Event()
        self.wanted: Callable[[], bool] = lambda: True

    def __call__(self, lane: int, wanted: Callable[[], bool]) -> str:
        self.wanted = wanted
        self.began.set()
        assert self.opened.wait(30)
        return f"lane {lane}"


async def begun(gate: Gate) -> None:
    assert await asyncio.to_thread(gate.began.wait, 30)


async def test_a_short_body_passes_all_long_ones() -> None:
    tokenising, gate = Tokenising(), Gate()
    long = [asyncio.create_task(tokenising.run(LONG, gate)) for _ in range(3)]
    await begun(gate)
    assert await tokenising.run(10, lambda lane, wanted: lane) == 0
    assert not any(task.done() for task in long)
    gate.opened.set()
    assert await asyncio.gather(*long) == ["lane 1"] * 3


async def test_within_a_lane_the_shortest_is_first() -> None:
    tokenising, gate = Tokenising(), Gate()
    order: list[int] = []

    def note(size: int) -> Callable[[int, Callable[[], bool]], None]:
        return lambda lane, wanted: order.append(size)

    first = asyncio.create_task(tokenising.run(10, gate))
    await begun(gate)
    rest = [asyncio.create_task(tokenising.run(size, note(size))) for size in (900, 30, 500, 20)]
    await asyncio.sleep(0)
    gate.opened.set()
    await asyncio.gather(first, *rest)
    assert order == [20, 30, 500, 900]


async def test_a_client_that_left_costs_nothing_further() -> None:
    tokenising, gate = Tokenising(), Gate()
    done: list[Any] = []
    running = asyncio.create_task(tokenising.run(10, gate))
    await begun(gate)
    waiting = asyncio.create_task(tokenising.run(10, lambda lane, wanted: done.append(lane)))
    await asyncio.sleep(0)
    for task in (waiting, running):
        task.cancel()
    await asyncio.gather(waiting, running, return_exceptions=True)
    assert not gate.wanted()  # what has begun can ask between two pieces
    gate.opened.set()
    assert await tokenising.run(10, lambda lane, wanted: "next") == "next"
    assert done == []


async def test_an_error_is_the_callers() -> None:
    def fails(lane: int, wanted: Callable[[], bool]) -> None:
        raise ApiError(400, "no")

    tokenising = Tokenising()
    with pytest.raises(ApiError, match="no"):
        await tokenising.run(1, fails)
    assert await tokenising.run(1, lambda lane, wanted: 2) == 2


async def test_what_waits_is_bounded_in_number_and_bytes() -> None:
    tokenising, gate = Tokenising(), Gate()
    tasks = [asyncio.create_task(tokenising.run(LONG, gate)) for _ in range(MAX_JOBS)]
    await begun(gate)
    with pytest.raises(Crowded):
        await tokenising.run(1, gate)
    gate.opened.set()
    await asyncio.gather(*tasks)
    gate = Gate()
    tasks = [asyncio.create_task(tokenising.run(4 << 20, gate)) for _ in range(16)]
    await begun(gate)
    with pytest.raises(Crowded):
        await tokenising.run(4 << 20, gate)
    gate.opened.set()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"prompt": "a" * 1001}, "prompt"),
        ({"prompt": ["a" * 1001]}, "prompt"),
        ({"prompt": [1] * 101}, "prompt"),
        ({"messages": [{"role": "user", "content": "a"}] * 101}, "messages"),
        ({"messages": [{"role": "user", "content": "a" * 600}] * 2}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a" * 501}] * 2}]}, "messages"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": "a" * 1001}}]}]}, "messages"),
    ],
)
def test_what_can_not_fit_is_refused_by_its_size(body: dict[str, Any], field: str) -> None:
    with pytest.raises(ApiError) as caught:
        refuse_hopeless(body, context=100, longest_token=10)
    assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")
    assert caught.value.param == field
    assert caught.value.message.startswith(field)


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "a" * 1000},
        {"prompt": [1] * 100},
        {"messages": [{"role": "user", "content": "a" * 500}] * 2},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a" * 500}] * 2}]},
        {},
        {
            "prompt": 7,
            "messages": [
                1,
                None,
                {"content": 3},
                {"content": [4, {"text": None}]},
                {"tool_calls": [5, {"function": 6}]},
            ],
        },
    ],
)
def test_what_may_fit_or_is_malformed_is_left_to_others(body: dict[str, Any]) -> None:
    refuse_hopeless(body, context=100, longest_token=10)


CHARACTERS = st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from('a"\\\n\0é東🙂'))


@given(unit=st.text(CHARACTERS, min_size=1, max_size=8), escaped=st.booleans(), indent=st.sampled_from([None, 8]))
@settings(max_examples=50)
def test_no_body_is_refused_by_its_length_whose_text_may_fit(unit: str, escaped: bool, indent: int | None) -> None:
    text = (unit * (1 << 18))[: 1 << 18]
    body = json.dumps({"model": "m", "prompt": text, "metadata": "x" * 900_000}, ensure_ascii=escaped, indent=indent)
    refuse_oversized(body.encode(), "prompt", context=1 << 12, longest_token=1 << 6)


@pytest.mark.parametrize("text", ["a", "é", "東"])
def test_a_body_far_too_long_is_refused_unread(text: str) -> None:
    with pytest.raises(ApiError) as caught:
        refuse_oversized((text * (2 * SYNTAX)).encode(), "messages", context=100, longest_token=10)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "context_length_exceeded", "messages")


def test_a_body_in_another_encoding_is_read_whatever_its_length() -> None:
    refuse_oversized(("a" * 2 * SYNTAX).encode("utf-16-le"), "prompt", context=100, longest_token=10)
