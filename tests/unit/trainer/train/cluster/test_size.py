import threading

import pytest

from driftloop.podlib.ending import StageFailure
from driftloop_trainer.train.cluster import size as module
from driftloop_trainer.train.cluster.size import Size


@pytest.mark.parametrize(
    ("alive", "wanted", "patient", "expected"),
    [
        (4, 4, True, 4),
        (5, 4, True, 4),  # never more than the job has
        (3, 4, True, None),  # the lost one may still come back
        (3, 4, False, 3),
        (3, 3, True, 3),  # a worker failed, but no node was lost
        (4, 3, True, 4),
        (2, 3, False, 2),
        (1, 3, False, None),  # fewer than the job accepts
    ],
)
def test_training_goes_on_with_fewer_nodes_only_after_the_wait_and_with_enough_of_them(
    alive: int, wanted: int, patient: bool, expected: int | None
) -> None:
    assert Size(2, 4, lambda: alive).chosen(alive, wanted, patient) == expected


def test_too_few_nodes_end_with_how_many_there_are() -> None:
    with pytest.raises(StageFailure, match="NodesMissing: 1 of 2 nodes joined") as ended:
        Size(2, 4, lambda: 1).wait(4, patience=0, timeout=0)
    assert ended.value.exit_code == 75


def test_a_node_that_is_there_for_long_enough_makes_the_training_grow_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SETTLED", 0.2)
    monkeypatch.setattr(module, "_POLL", 0.01)
    alive, grown = [1], threading.Semaphore(0)
    with Size(1, 2, lambda: alive[0]).watching(1, grown.release):
        assert not grown.acquire(timeout=0.5)
        alive[0] = 2
        assert grown.acquire(timeout=30)
        assert not grown.acquire(timeout=0.5)


def test_on_all_nodes_nothing_is_watched() -> None:
    def unexpected() -> int:
        raise AssertionError

    with Size(1, 2, unexpected).watching(2, lambda: None):
        pass
