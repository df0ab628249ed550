"""A lack of memory that ended the workers. Ray would start them again, and they would end in the same way."""

from collections.abc import Mapping

from ray.exceptions import OutOfMemoryError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import StageFailure, bounded


class FinalShortage(DefaultFailurePolicy):
    """Starts failed workers again, but not after a lack of memory: the operator lowers what they need first."""

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        """What Ray Train's controller does after a failure."""
        if shortage(training_failed_error) is not None:
            return FailureDecision.RAISE
        return super().make_decision(training_failed_error)


def shortage(error: TrainingFailedError) -> StageFailure | None:
    """The lack of memory behind a failure of the workers; None if it has another cause.

    The other ranks fail too, as they wait for the one that is gone.
    """
    failures: Mapping[int, Exception] = error.worker_failures if isinstance(error, WorkerGroupError) else {}
    found = (_of_rank(rank, failures[rank]) for rank in sorted(failures))
    return next((failure for failure in found if failure is not None), None)


def _of_rank(rank: int, error: Exception) -> StageFailure | None:
    match error:
        case WorkerHealthCheckFailedError():
            return _of_rank(rank, error.health_check_failure)
        case StageFailure(reason=StageReason.OUT_OF_MEMORY):
            return error
        case OutOfMemoryError():  # from Ray's memory monitor, which ends a worker before the kernel would
            return StageFailure(StageReason.OUT_OF_MEMORY, bounded(f"rank {rank}: its pod has no memory left: {error}"))
        case _:
            return None
