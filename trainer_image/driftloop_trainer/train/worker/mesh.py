"""The workers as a grid: pipeline x data x tensor. An axis of one worker is left out, except data.

Each stage of the pipeline has a part of the layers. The rows of a stage train on different data (FSDP2). The workers of
a row share each matrix (tensor). The ranks of a row are neighbours, so they are on one node: they exchange activations
in every layer. The pipeline is the outermost axis, so that its stages are on different nodes if there are several: they
exchange the least. A worker may have several stages that are not adjacent: the first worker's second stage follows the
last worker's first one.

With context parallelism, neighbouring workers of the data axis read the same rows, and each has a part of the tokens.
To FSDP2 they are like workers with different rows.

With replicas of the model, each group of neighbouring rows has one: weights and gradients are sharded within a group,
and only shards of gradients are added up between the groups.
"""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate

from driftloop.api.finetunejob import Parallelism


@dataclass(frozen=True, slots=True)
class Mesh:
    """Axes of the grid. `tensor`: None if each worker computes whole layers. `pipeline`: None if it has all layers.

    `data`: the workers that FSDP2 shards over; with replicas two axes, replicas x workers of a replica. `context`: the
    workers of `data` that share the tokens of the same rows; None if each has all tokens of its rows.
    `stages_per_worker`: more than one only with a pipeline.
    """

    data: DeviceMesh
    tensor: DeviceMesh | None = None
    pipeline: DeviceMesh | None = None
    context: dist.ProcessGroup | None = None
    stages_per_worker: int = 1

    @classmethod
    def of(cls, device_type: str, parallelism: Parallelism | None = None) -> "Mesh":
        """All ranks; the data axis has those that `parallelism` leaves. Every rank calls it."""
        wanted = parallelism or Parallelism()
        rows = dist.get_world_size() // (wanted.pipeline * wanted.data_replicate * wanted.tensor)
        replicas = wanted.data_replicate
        sizes = {"pipeline": wanted.pipeline, "replicate": replicas, "data": rows, "tensor": wanted.tensor}
        axes = {name: size for name, size in sizes.items() if size > 1 or name == "data"}
        grid = init_device_mesh(device_type, tuple(axes.values()), mesh_dim_names=tuple(axes))
        return cls(
            grid["replicate", "data"] if "replicate" in axes else grid["data"],
            tensor=grid["tensor"] if "tensor" in axes else None,
            pipeline=grid["pipeline"] if "pipeline" in axes else None,
            context=_context_group(wanted.context, wanted.tensor) if wanted.context > 1 else None,
            stages_per_worker=wanted.stages_per_worker,
        )

    @property
    def data_rank(self) -> int:
        """The number of the data that this worker reads. Workers with the same number read the same data."""
        return self._place // self.context_size

    @property
    def data_size(self) -> int:
        """How many parts a batch is dealt into."""
        return self.data.size() // self.context_size

    @property
    def context_size(self) -> int:
        """The number of workers that share the tokens of a row of data."""
        return self.context.size() if self.context else 1

    @property
    def tensor_size(self) -> int:
        """The number of workers to a row."""
        return self.tensor.size() if self.tensor else 1

    @property
    def row(self) -> int:
        """The number of this worker's row among the rows of the whole pipeline."""
        return self.pipeline_rank * self.data.size() + self._place

    @property
    def pipeline_rank(self) -> int:
        """The number of this worker on the axis `pipeline`."""
        return self.pipeline.get_local_rank() if self.pipeline else 0

    @property
    def pipeline_size(self) -> int:
        """The number of workers on the axis `pipeline`."""
        return self.pipeline.size() if self.pipeline else 1

    @property
    def stages(self) -> int:
        """The number of stages of all workers."""
        return self.pipeline_size * self.stages_per_worker

    @property
    def own_stages(self) -> range:
        """The numbers of this worker's stages."""
        return range(self.pipeline_rank, self.stages, self.pipeline_size)

    @property
    def _place(self) -> int:
        """The number of this worker's row in its stage."""
        number = 0
        for axis, size in enumerate(self.data.shape):
            number = number * size + self.data.get_local_rank(axis)
        return number


def _context_group(size: int, tensor: int) -> dist.ProcessGroup:
    """This worker's group of `size` neighbours on the data axis, in their order. Every rank calls it."""
    groups = torch.arange(dist.get_world_size()).view(-1, size, tensor).transpose(1, 2).reshape(-1, size)
    group, _ = dist.new_subgroups_by_enumeration(groups.tolist())
    assert isinstance(group, dist.ProcessGroup)
    return group


def copies(tensor: object) -> int:
    """How many workers hold the same part of `tensor`."""
    if not isinstance(tensor, DTensor):
        return 1
    workers = 1
    for size, placement in zip(tensor.device_mesh.shape, tensor.placements, strict=True):
        if isinstance(placement, Replicate):
            workers *= size
    return workers


def device_of_worker() -> torch.device:
    """The GPU that Ray assigned to this worker, or the CPU."""
    if not torch.cuda.is_available() or dist.get_backend() == "gloo":
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device
