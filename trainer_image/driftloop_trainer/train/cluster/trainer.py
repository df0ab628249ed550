"""Ray Train's trainer, without the processes that it starts for others: each imports Ray Train for three seconds."""

from typing import Any

from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

# The manager of Ray's datasets: the workers read the prepared folder themselves. The cleaner of placement groups: here
# a driver's end is the cluster's end, and without a dashboard it can't ask whether the driver lives, and logged that
# every second.
_UNUSED = (DatasetsCallback, PlacementGroupCleanerCallback)


class Trainer(DataParallelTrainer):
    """Runs a function on workers of a fixed number."""

    def _create_default_callbacks(self) -> list[Any]:
        return [each for each in super()._create_default_callbacks() if not isinstance(each, _UNUSED)]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        policy = _Given(self.scaling_config)  # type: ignore[arg-type]  # its type is version 1's
        return super()._initialize_and_run_controller(**arguments | {"scaling_policy": policy})


class _Given(FixedScalingPolicy):
    """Takes the nodes that there are, and asks no coordinator for more: the pods of the Job are all there will be."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Nothing is registered."""

    def _maybe_send_resource_request(self) -> None:
        """Nothing is asked for."""
