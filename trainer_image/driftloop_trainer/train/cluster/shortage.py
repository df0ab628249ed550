"""A failure of a worker that a new start would only repeat: a lack of memory, or a bug in a training of the user's."""

from ray.exceptions import OutOfMemoryError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from driftloop.contract.phase import told
from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import StageFailure, bounded


class FinalShortage(DefaultFailurePolicy):
    """Starts failed workers again, but not after a lack of memory: the operator lowers what they need first.

    Nor after a bug in a training of the user's own.
    """

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        """What Ray Train's controller does after a failure."""
        if shortage(training_failed_error) is not None:
            return FailureDecision.RAISE
        return super().make_decision(training_failed_error)


def shortage(error: Exception) -> StageFailure | None:
    """The lack of memory, or the user's bug, behind a failed training; None if it has another cause.

    Ray's memory monitor ends a process before the kernel would: a worker, or the controller. If a worker is gone, the
    other ranks fail too, as they wait for it.
    """
    match error:
        case WorkerGroupError():
            failures = (_of_rank(rank, error.worker_failures[rank]) for rank in sorted(error.worker_failures))
            return next((failure for failure in failures if failure is not None), None)
        case OutOfMemoryError():
            return _by_ray("the controller", error)
        case _:
            return None


def _of_rank(rank: int, error: Exception) -> StageFailure | None:
    match error:
        case WorkerHealthCheckFailedError():
            return _of_rank(rank, error.health_check_failure)
        case StageFailure(reason=StageReason.OUT_OF_MEMORY | StageReason.BAD_ENTRYPOINT):
            return error
        case OutOfMemoryError():
            return _by_ray(f"rank {rank}", error)
        case _:
            return None


def _by_ray(ended: str, error: OutOfMemoryError) -> StageFailure:
    message = bounded(f"a pod has no memory left, so Ray ended {ended}: {error}")
    return StageFailure(StageReason.OUT_OF_MEMORY, message, phase=told())
