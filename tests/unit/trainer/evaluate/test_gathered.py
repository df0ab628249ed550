"""Requests that run at the same time."""

import asyncio

import pytest

from driftloop_trainer.evaluate.gathered import gathered


async def test_results_come_in_the_order_of_the_requests() -> None:
    async def after(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds

    assert await gathered(after(seconds) for seconds in (0.02, 0.0, 0.01)) == [0.02, 0.0, 0.01]


async def test_the_first_failure_is_raised_by_itself_and_cancels_the_others() -> None:
    cancelled = []

    async def hang() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await gathered([hang(), fail(), hang()])
    assert cancelled == [True, True]
