"""How many tokens the cache may have memory for, from what is free after the model was loaded."""

from pathlib import Path
from typing import Any

import torch

from driftloop_server.engine.cache import Block, Forward, cells_for, longest_of, size_class

CACHE_PART = 0.7  # of the free memory; the rest is for a step's own, and for blocks that are moved while they grow
CGROUP = Path("/sys/fs/cgroup")
FILES = (  # a cgroup's limit, its use, and what that is made of; version 2 and version 1
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)


def cell_bytes(model: Any) -> int:
    """Bytes that one token takes in the cache, in all layers, measured: architectures differ in what they keep."""
    block: Block[None] = Block(Forward(model), [None], 1)
    block.append([[1]])
    return block.bytes


def cache_cells(free: int, per_cell: int, max_num_seqs: int, max_model_len: int) -> int:
    """Tokens for which the cache may take memory: for every place at full length, or what `free` bytes allow."""
    return min(max_num_seqs * cells_for(max_model_len), int(free * CACHE_PART) // max(per_cell, 1))


def longest_context(cells: int, max_model_len: int) -> int:
    """The longest request, in tokens, for which so many cells are enough; 0 where they are enough for none."""
    kind = size_class(max_model_len)
    while kind >= 0 and cells_for(longest_of(kind)) > cells:
        kind -= 1
    return min(max_model_len, longest_of(kind)) if kind >= 0 else 0


def free_bytes(device: torch.device) -> int:
    """Of the GPU, or of this machine's memory within the container's limit."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_memory(Path("/proc/meminfo"), CGROUP)


def free_memory(meminfo: Path, cgroup: Path) -> int:
    """Bytes a process can still take: what the kernel calls available, and the cgroup's limit (v2 or v1) leaves."""
    fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
    available = int(fields["MemAvailable"].split()[0]) * 1024
    for limit, usage, stat in FILES:
        if (cgroup / limit).exists() and (bound := (cgroup / limit).read_text().strip()) != "max":
            # Pages of files that were read count as used and are given up when memory is needed: the weights' own.
            found = dict(line.split() for line in (cgroup / stat).read_text().splitlines())
            files = int(found.get("total_inactive_file", found.get("inactive_file", 0)))
            available = min(available, int(bound) - int((cgroup / usage).read_text()) + files)
    return max(available, 0)
