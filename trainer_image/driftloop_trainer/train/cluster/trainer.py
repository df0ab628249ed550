"""Ray Train's trainer without two helper processes, each of which takes three seconds to import Ray Train."""

from typing import Any

from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from driftloop_trainer.train.cluster.shortage import FinalShortage

# The manager of Ray's datasets is unused because the workers read the prepared folder themselves. The cleaner of
# placement groups is unused because the cluster ends with its driver. Without a dashboard the cleaner can't query
# whether the driver is alive, and logs this every second (not reported).
_UNUSED = (DatasetsCallback, PlacementGroupCleanerCallback)


class Trainer(DataParallelTrainer):
    """Runs a function on a fixed number of workers."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, _UNUSED)]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        policies = {
            "scaling_policy": _FixedNodes(self.scaling_config),  # type: ignore[arg-type]  # its type is version 1's
            "failure_policy": FinalShortage(arguments["failure_policy"].failure_config),
        }
        return super()._initialize_and_run_controller(**arguments | policies)


class _FixedNodes(FixedScalingPolicy):
    """Uses the present nodes and never requests more: the cluster consists of the Job's pods."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Register nothing."""

    def _maybe_send_resource_request(self) -> None:
        """Request nothing."""
