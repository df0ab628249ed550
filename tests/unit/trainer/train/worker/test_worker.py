import pickle
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

from driftloop.contract.names import EXIT_BAD_INPUT
from driftloop_trainer.train.assignment import Assignment
from driftloop_trainer.train.worker import worker
from driftloop_trainer.train.worker.memory import OutOfMemory
from unit.trainer.train.cluster.test_driver import task

CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.10 GiB is free."
)


def test_a_gpu_without_memory_ends_the_rank_with_its_own_reason(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with (
            patch.object(worker, "_work", side_effect=torch.OutOfMemoryError(CUDA)),  # there is no GPU here
            pytest.raises(OutOfMemory) as ended,
        ):
            worker.work(Assignment(task(), "0000-a", board=None), lambda _: None)
    finally:
        dist.destroy_process_group()
    failure = pickle.loads(pickle.dumps(ended.value))  # on its way to the driver
    assert (failure.reason, failure.exit_code) == ("OutOfMemory", EXIT_BAD_INPUT)
    assert failure.message == f"rank 0: {CUDA}"
