"""The most memory that a worker has used so far, and its end if there is no more."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from driftloop.contract.phase import BesideSteps
from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import StageFailure, bounded


class OutOfMemory(StageFailure):
    """A rank whose GPU has no memory left. `message`: torch's, which has the numbers."""

    def __init__(self, rank: int, message: str, phase: BesideSteps | None = None) -> None:
        super().__init__(StageReason.OUT_OF_MEMORY, bounded(f"rank {rank}: {message}"), phase=phase)
        self.args = (rank, message)  # pickle rebuilds an exception from these


def peak_memory(device: torch.device) -> dict[str, int]:
    """Bytes by what they are: on a GPU what torch has allocated and reserved there, on CPUs the resident memory.

    CUDA itself and NCCL are not in `allocated` and `reserved`. `resident` includes the pages of libraries and of the
    rows, which the workers of a pod share, and which the kernel drops when memory is short.
    """
    if device.type == "cuda":
        statistics = torch.cuda.memory_stats(device)
        return {kind: statistics[f"{kind}_bytes.all.peak"] for kind in ("allocated", "reserved")}
    return {"resident": _peak_resident()}


def _peak_resident() -> int:
    """Bytes: VmHWM of proc(5). getrusage would count the process that started this one, too (not reported)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (size,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(size) << 10


def largest(values: Sequence[int], device: torch.device) -> list[int]:
    """The largest over all ranks, for each of the values. Every rank calls it, and gets the same."""
    tensor = torch.tensor(values, device=device)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tensor.tolist()
