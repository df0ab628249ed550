"""What Ray Train calls in each worker. Only these functions of the package import torch, and only when they run.

Ray Train's controller and the driver import this module too. Without the worker's modules they save seconds at the
start and at the end of a training.
"""

import os
from datetime import timedelta
from typing import Any

from ray.train import get_context

from driftloop.podlib.heavy import loading
from driftloop_trainer.train.assignment import ASSIGNMENT, Assignment
from driftloop_trainer.train.cluster.board import Reporter


def take_up(config: dict[str, Any]) -> Any:
    """Ray Train's training function. Returns the Outcome; in Ray's types such a function returns nothing."""
    # Blocks grow, so that memory is not split into blocks of many sizes. Without this, a GPU ran out of memory when 0.9
    # of it was allocated. torch reads it at its first allocation: https://docs.pytorch.org/docs/stable/notes/cuda.html
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    with loading():
        from driftloop_trainer.train.worker.worker import work  # imports torch and transformers

    assignment: Assignment = config[ASSIGNMENT]
    return work(assignment, Reporter(assignment.board))


def join(backend: str, timeout: int, address: str, port: int) -> None:
    """Join the process group. The worker chooses its GPU by LOCAL_RANK.

    The variables have the names that torchrun uses, as libraries read them in a training of the user's own.

    `timeout`: seconds that one collective may take.
    """
    with loading():
        import torch.distributed as dist

    context = get_context()
    os.environ |= {
        "RANK": str(context.get_world_rank()),
        "LOCAL_RANK": str(context.get_local_rank()),
        "WORLD_SIZE": str(context.get_world_size()),
        "LOCAL_WORLD_SIZE": str(context.get_local_world_size()),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
    }
    dist.init_process_group(
        backend,
        init_method=f"tcp://{address}:{port}",
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        timeout=timedelta(seconds=timeout),
    )


def leave() -> None:
    """Leave the process group, if there is one."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
