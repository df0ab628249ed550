"""When a key comes back."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from driftloop.controller.runtime.loop.queue import WorkQueue
from driftloop.controller.runtime.loop.reconcile import Result
from driftloop.controller.runtime.loop.workers import MANY_WRITES, Workers
from driftloop.controller.vocabulary.plan import Key

KEY = Key("FineTuneJob", "ns", "a")


class Scripted:
    """A reconciler that answers what `answer` says and notes when it was asked."""

    def __init__(self, answer: Callable[[int], Result]) -> None:
        self.answer = answer
        self.times: list[float] = []

    async def reconcile(self, key: Key) -> Result:
        self.times.append(asyncio.get_running_loop().time())
        return self.answer(len(self.times))


async def work(answer: Callable[[int], Result], seconds: float) -> list[float]:
    reconciler: Any = Scripted(answer)
    queue: WorkQueue[Key] = WorkQueue(asyncio.get_running_loop().time)
    queue.add(KEY)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await Workers(queue, reconciler, 2).run()
    return list(reconciler.times)


async def test_settled_it_rests() -> None:
    assert len(await work(lambda _: Result("settled"), 0.3)) == 1


async def test_after_a_write_it_looks_again_at_once() -> None:
    assert len(await work(lambda count: Result("written", wrote=count <= 3), 0.3)) == 4


async def test_it_comes_back_when_the_plan_says() -> None:
    first, second, *_ = await work(lambda _: Result("settled", after=0.2), 0.5)
    assert second - first >= 0.2


async def test_a_failure_and_an_error_come_back_later_and_later() -> None:
    def answer(count: int) -> Result:
        if count == 1:
            raise RuntimeError("a bug")
        return Result("retry", retry=True)

    first, second, third, *_ = await work(answer, 2.5)
    assert second - first >= 0.25
    assert third - second >= 0.5


async def test_what_never_settles_is_slowed_down() -> None:
    assert MANY_WRITES < len(await work(lambda _: Result("written", wrote=True), 0.2)) <= MANY_WRITES + 2


async def test_a_worker_that_may_not_write_ends_all() -> None:
    from driftloop.controller.runtime.kube.api import NotLeading

    def answer(_: int) -> Result:
        raise NotLeading("lost")

    with pytest.raises(ExceptionGroup) as caught:
        await work(answer, 5)
    assert caught.group_contains(NotLeading)
