"""The workers as a grid. Its rows train on different data (FSDP2); the workers of a row share each matrix (tensor).

The ranks of a row are neighbours, so they are on one node: they exchange activations in every layer.
"""

from dataclasses import dataclass

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate

from driftloop.api.finetunejob import Parallelism


@dataclass(frozen=True, slots=True)
class Mesh:
    """Axes of the grid. `tensor`: None if each worker computes whole layers."""

    data: DeviceMesh
    tensor: DeviceMesh | None = None

    @classmethod
    def of(cls, device_type: str, parallelism: Parallelism | None = None) -> "Mesh":
        """All ranks; the data axis has those that `parallelism` leaves. Every rank calls it."""
        wanted = parallelism or Parallelism()
        sizes = {"data": dist.get_world_size() // wanted.tensor, "tensor": wanted.tensor}
        axes = {name: size for name, size in sizes.items() if size > 1 or name == "data"}
        grid = init_device_mesh(device_type, tuple(axes.values()), mesh_dim_names=tuple(axes))
        return cls(grid["data"], tensor=grid["tensor"] if "tensor" in axes else None)

    @property
    def data_rank(self) -> int:
        """The number of this worker's row: the workers of a row read the same data."""
        return self.data.get_local_rank()

    @property
    def data_size(self) -> int:
        """The number of rows."""
        return self.data.size()

    @property
    def tensor_size(self) -> int:
        """The number of workers to a row."""
        return self.tensor.size() if self.tensor else 1


def copies(tensor: object) -> int:
    """How many workers hold the same part of `tensor`."""
    if not isinstance(tensor, DTensor):
        return 1
    found = 1
    for size, placement in zip(tensor.device_mesh.shape, tensor.placements, strict=True):
        if isinstance(placement, Replicate):
            found *= size
    return found
