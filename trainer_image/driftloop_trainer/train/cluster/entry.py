"""What Ray Train calls in each worker: the only place of the cluster's side that imports torch, and only when it runs.

Ray Train's controller reads this module, and the driver too: with the worker's modules they waited for seconds at
either end of a training for what only workers need.
"""

import os
from datetime import timedelta
from typing import Any

from ray.train import get_context

from driftloop.podlib.heavy import loading
from driftloop_trainer.train.assignment import ASSIGNMENT, Assignment
from driftloop_trainer.train.cluster.board import Reporter


def take_up(config: dict[str, Any]) -> Any:
    """Ray Train's training function: returns the Outcome (Ray's types know of no answer)."""
    # Blocks that grow instead of blocks of many sizes: without it a GPU ran out of memory with 0.9 of it allocated.
    # Read when torch first takes memory: https://docs.pytorch.org/docs/stable/notes/cuda.html
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    with loading():
        from driftloop_trainer.train.worker.worker import work  # torch and its kin

    assignment: Assignment = config[ASSIGNMENT]
    return work(assignment, Reporter(assignment.board))


def join(backend: str, timeout: int, address: str, port: int) -> None:
    """Become one of the process group. LOCAL_RANK, torchrun's name for it, tells the worker its GPU.

    `timeout`: seconds that one collective may take.
    """
    with loading():
        import torch.distributed as dist

    context = get_context()
    os.environ["LOCAL_RANK"] = str(context.get_local_rank())
    dist.init_process_group(
        backend,
        init_method=f"tcp://{address}:{port}",
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        timeout=timedelta(seconds=timeout),
    )


def leave() -> None:
    """Leave the process group, where there is one."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
