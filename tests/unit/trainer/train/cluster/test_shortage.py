import pickle
from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2.api.config import FailureConfig
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

from driftloop.contract.names import EXIT_BAD_INPUT, TERMINATION_ENV
from driftloop.contract.phase import tell
from driftloop_trainer.train.cluster.shortage import FinalShortage, shortage
from driftloop_trainer.train.worker.memory import OutOfMemory
from driftloop_trainer.train.worker.own import BrokenEntrypoint

LOST = RuntimeError("connection closed by peer")
ON_GPU = OutOfMemory(3, "CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of 79.10 GiB.")
_OF_RAY = OutOfMemoryError("memory on the node was 3.9GB / 4.0GB")  # type: ignore[no-untyped-call]
BY_RAY = WorkerHealthCheckFailedError("rank 1 is gone", _OF_RAY)


@pytest.mark.parametrize(
    ("failures", "told"),
    [
        ({0: LOST, 3: ON_GPU}, "rank 3: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"),
        ({0: LOST, 1: BY_RAY}, "a pod has no memory left, so Ray ended rank 1: memory on the node was 3.9GB"),
    ],
)
def test_a_lack_of_memory_is_found_among_the_failures_that_it_causes(failures: dict[int, Exception], told: str) -> None:
    error = pickle.loads(pickle.dumps(WorkerGroupError("workers failed", failures)))  # as it comes from the controller
    found = shortage(error)
    assert found is not None
    assert (found.reason, found.exit_code) == ("OutOfMemory", EXIT_BAD_INPUT)
    assert told in found.message
    assert FinalShortage(FailureConfig(max_failures=3)).make_decision(error) is FailureDecision.RAISE


def test_what_the_workers_did_when_memory_lacked_reaches_the_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TERMINATION_ENV, str(tmp_path / "termination"))
    (tmp_path / "termination").touch()
    tell("loading")
    on_gpu = OutOfMemory(3, "CUDA out of memory.", "export")  # it knows itself
    for failure, phase in ((on_gpu, "export"), (BY_RAY, "loading")):
        found = shortage(pickle.loads(pickle.dumps(WorkerGroupError("workers failed", {3: failure}))))
        assert found is not None
        assert found.phase == phase


def test_a_bug_in_a_training_of_the_users_own_is_not_tried_again() -> None:
    bug = BrokenEntrypoint("own:train has a bug: TypeError: no such argument (own.py, line 3)")
    error = pickle.loads(pickle.dumps(WorkerGroupError("workers failed", {0: LOST, 1: bug})))
    found = shortage(error)
    assert found is not None
    assert str(found) == f"BadEntrypoint: {bug.message}"
    assert FinalShortage(FailureConfig(max_failures=3)).make_decision(error) is FailureDecision.RAISE


def test_a_controller_that_ray_ended_for_lack_of_memory_is_a_lack_of_memory() -> None:
    found = shortage(_OF_RAY)
    assert found is not None
    assert (
        found.message == "a pod has no memory left, so Ray ended the controller: memory on the node was 3.9GB / 4.0GB"
    )


@pytest.mark.parametrize(
    "error",
    [WorkerGroupError("workers failed", {0: LOST, 1: ActorDiedError()}), ControllerError(RuntimeError("no memory"))],
)
def test_other_failures_are_left_to_ray(error: TrainingFailedError) -> None:
    assert shortage(error) is None


def test_workers_that_are_lost_for_other_reasons_are_started_again() -> None:
    policy = FinalShortage(FailureConfig(max_failures=1))
    error = WorkerGroupError("workers failed", {0: LOST})
    assert [policy.make_decision(error) for _ in range(2)] == [FailureDecision.RETRY, FailureDecision.RAISE]
