"""How many tokens the cache can hold, from the memory that is free after the model is loaded."""

from pathlib import Path
from typing import Any

import torch

from driftloop_server.engine.cache import Block, Forward, cells_for, longest_of, size_class

CACHE_PART = 0.7  # of the free memory; the rest is for the activations of a step and for copies of growing blocks
CGROUP = Path("/sys/fs/cgroup")
FILES = (  # files with a cgroup's limit, its usage and the parts of that usage; cgroup v2, then v1
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)


def cell_bytes(model: Any) -> int:
    """Bytes of cache per token, over all layers. Measured, as architectures differ in what they cache."""
    block: Block[None] = Block(Forward(model), [None], 1)
    block.append([[1]])
    return block.bytes


def cache_cells(free: int, per_cell: int, max_num_seqs: int, max_model_len: int) -> int:
    """Size of the cache in tokens: enough for every request at full length, or what `free` bytes allow."""
    return min(max_num_seqs * cells_for(max_model_len), int(free * CACHE_PART) // max(per_cell, 1))


def longest_context(cells: int, max_model_len: int) -> int:
    """The longest request, in tokens, that fits into `cells`; 0 if none fits."""
    kind = size_class(max_model_len)
    while kind >= 0 and cells_for(longest_of(kind)) > cells:
        kind -= 1
    return min(max_model_len, longest_of(kind)) if kind >= 0 else 0


def free_bytes(device: torch.device) -> int:
    """Free memory of the GPU, or of this machine within the container's limit."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_memory(Path("/proc/meminfo"), CGROUP)


def free_memory(meminfo: Path, cgroup: Path) -> int:
    """Bytes that a process can still allocate: the kernel's MemAvailable, within the cgroup's limit (v1 or v2)."""
    fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
    available = int(fields["MemAvailable"].split()[0]) * 1024
    for limit, usage, stat in FILES:
        if (cgroup / limit).exists() and (bound := (cgroup / limit).read_text().strip()) != "max":
            # Cached pages of files, such as the weights, count as used, but the kernel frees them when it needs memory.
            parts = dict(line.split() for line in (cgroup / stat).read_text().splitlines())
            reclaimable = int(parts.get("total_inactive_file", parts.get("inactive_file", 0)))
            available = min(available, int(bound) - int((cgroup / usage).read_text()) + reclaimable)
    return max(available, 0)
