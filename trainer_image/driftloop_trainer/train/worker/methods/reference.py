"""What the first weights computed of each sequence, for methods that compare the trained weights with them.

It is computed once per run, before the first step, and kept beside the checkpoints. So a second model takes no memory,
and a run that resumes compares with the same values.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule

from driftloop.contract.names import EXIT_RETRY
from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.train.run import Rows, Run
from driftloop_trainer.train.worker.checkpoint import from_rank_0
from driftloop_trainer.train.worker.mesh import Mesh
from driftloop_trainer.train.worker.order import Indices, share

T = TypeVar("T")


def kept_or(run: Run, compute: Callable[[], torch.Tensor], rows: Rows = "training") -> torch.Tensor:
    """The values that the run has kept, else those that `compute` returns, which are kept; float64 on the CPU.

    Every rank calls it, and `compute` returns the same on every rank. Raises StageFailure on every rank.
    """
    kept = from_rank_0(lambda: _in_storage(lambda: run.reference(rows)))
    if kept is None:
        values = compute().tolist()
        kept = from_rank_0(lambda: _in_storage(lambda: run.keep_reference(values, rows)))
    return torch.tensor(kept, dtype=torch.float64)


def over_all(
    model: Any, lengths: Indices, values: Callable[[Sequence[int]], torch.Tensor], mesh: Mesh, micro_size: int
) -> torch.Tensor:
    """`values` of all sequences, computed with `model`; float64, (sequences,). Every rank computes its share.

    `values` returns one value per sequence of a micro-batch, which may be empty. Dropout is off.
    """
    computed = torch.zeros(len(lengths), dtype=torch.float64, device=next(model.parameters()).device)
    with without_gradient(model):
        for indices in share(range(len(lengths)), lengths, mesh.data_rank, mesh.data_size, micro_size):
            computed[indices] = values(indices)
    dist.all_reduce(computed)
    return computed / mesh.tensor_size


@contextmanager
def without_gradient(model: Any) -> Iterator[None]:
    """Forward passes that no backward pass follows, without dropout."""
    trains = model.training
    model.eval()
    with torch.no_grad():
        yield
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # after a forward pass without a backward one, FSDP keeps the parameters of its root whole
    model.train(trains)


def _in_storage(act: Callable[[], T]) -> T:
    try:
        return act()
    except Exception as error:  # each storage client has its own
        message = f"the values of the first weights can't be kept beside the run: {error}"
        raise StageFailure(StageReason.STORAGE_UNREADABLE, message, EXIT_RETRY) from error
