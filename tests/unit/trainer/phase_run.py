"""A training on two ranks of one pod, for test_worker.py: `phase_run.py FOLDER`, with the task in FOLDER/task.json.

Rank 1 loads and exports later than rank 0. What the pod tells meanwhile is in FOLDER/slow-rank.json.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist

from driftloop.contract.phase import told
from driftloop.contract.task import TrainTask
from driftloop_trainer.train.assignment import Assignment
from driftloop_trainer.train.worker import worker
from driftloop_trainer.train.worker.export import export
from unit.trainer.ranks import EXCHANGE_TIMEOUT, run_ranks

BEHIND = 3  # seconds


def run_rank(folder: Path, rank: int, world_size: int) -> None:
    """Train as one of the ranks."""
    os.environ |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world_size), "RANK": str(rank)}
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size, timeout=EXCHANGE_TIMEOUT)
    task = TrainTask.model_validate_json((folder / "task.json").read_text())
    seen: list[str | None] = []

    def late(act: Callable[..., Any]) -> Callable[..., Any]:
        def acting(*arguments: Any) -> Any:
            result = act(*arguments)
            if rank == 1:
                time.sleep(BEHIND)
                seen.append(told())
            return result

        return acting

    with patch.object(worker, "_load", late(worker._load)), patch.object(worker, "export", late(export)):
        outcome = worker.work(Assignment(task, "0000-a", None), lambda _: None)
    assert outcome.failure is None, outcome.failure
    if rank == 1:
        (folder / "slow-rank.json").write_text(json.dumps(seen))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_ranks(run_rank, Path(sys.argv[1]), 2)
