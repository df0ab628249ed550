import threading
from contextlib import closing

import pytest

from driftloop_trainer.train.worker.prefetch import prefetched


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_every_step_gets_its_own_in_order() -> None:
    for steps in (range(0), range(1), range(3, 8)):
        assert list(prefetched(lambda step: step * 10, steps)) == [step * 10 for step in steps]


def test_one_more_step_is_made_while_the_caller_uses_the_last() -> None:
    made: list[int] = []
    second = threading.Event()

    def make(step: int) -> None:
        made.append(step)
        if step == 1:
            second.set()

    with closing(prefetched(make, range(9))) as results:
        next(results)
        assert second.wait(timeout=30)
    assert made == [0, 1]


def test_an_error_is_raised_in_its_own_step() -> None:
    results = prefetched(lambda step: 6 // (2 - step), range(5))
    assert [next(results), next(results)] == [3, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert not threads()


def test_the_thread_ends_with_its_user() -> None:
    def fail_in_the_second_step() -> None:
        with closing(prefetched(lambda step: step, range(5))) as results:
            for step in results:
                assert threads()
                if step == 1:
                    raise InterruptedError

    with pytest.raises(InterruptedError):
        fail_in_the_second_step()
    assert not threads()
