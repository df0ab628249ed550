"""What a training of your own imports: each worker calls `training.entrypoint: module:function` with a Context."""

from driftloop_trainer.dataset import IGNORED, Dataset
from driftloop_trainer.train.worker.own_context import Context

__all__ = ["IGNORED", "Context", "Dataset"]
